"""Other forms of a trained result, such as the whole model with a LoRA merged in."""

from __future__ import annotations

from finetune.export.forms import check_form, export
from finetune.export.job import Job
from finetune.export.made import Made, what_is

__all__ = ["Job", "Made", "check_form", "export", "what_is"]
