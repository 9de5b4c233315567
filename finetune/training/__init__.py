"""The loop that every recipe shares, and what it keeps on disk.

What needs torch is loaded on first use, so that a run's folder can be looked at without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finetune.training.run_folder import RunFolder

if TYPE_CHECKING:
    from finetune.training.check import check_trainable
    from finetune.training.trainer import Trainer

__all__ = ["RunFolder", "Trainer", "check_trainable"]
_HOMES = {"Trainer": "finetune.training.trainer", "check_trainable": "finetune.training.check"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
