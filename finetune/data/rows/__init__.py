"""Data sets of Hugging Face's `datasets`: by Hub id, from `save_to_disk`, Parquet and Arrow files."""

from finetune.data.rows.listing import Row, list_rows
from finetune.data.rows.opening import is_dataset

__all__ = ["Row", "is_dataset", "list_rows"]
