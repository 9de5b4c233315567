"""Benchmarks of the program; it does not import them, and they are not installed with it."""
