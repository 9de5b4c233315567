"""The settings of a run, as types."""
