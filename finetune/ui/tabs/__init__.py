"""The parts of the page, one module for each tab."""
