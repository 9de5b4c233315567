"""What can be done with files after training: look at them, shrink, combine, extract and compare them."""

from __future__ import annotations

from finetune.tools.compare import compare_loras, compare_models
from finetune.tools.describe import describe
from finetune.tools.extract import extract
from finetune.tools.into_model import merge_into
from finetune.tools.low_rank import Limit
from finetune.tools.merge import Plan, merge
from finetune.tools.resize import relative_error, resize
from finetune.tools.result import Target

__all__ = [
    "Limit",
    "Plan",
    "Target",
    "compare_loras",
    "compare_models",
    "describe",
    "extract",
    "merge",
    "merge_into",
    "relative_error",
    "resize",
]
