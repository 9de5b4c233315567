"""Checks of a data set."""
