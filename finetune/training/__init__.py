"""The loop that every recipe shares, and what it keeps on disk."""

from finetune.training.check import check_trainable
from finetune.training.run_folder import RunFolder
from finetune.training.trainer import Trainer

__all__ = ["RunFolder", "Trainer", "check_trainable"]
