"""Which version of finetune this is."""

__version__ = "0.1.0"
