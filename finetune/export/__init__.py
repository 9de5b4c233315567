"""Other forms of a trained result: the whole model with the LoRA merged in, a DoRA as a plain LoRA."""

from __future__ import annotations

from finetune.export.merge import export_merged
from finetune.export.plain import export_plain

__all__ = ["export_merged", "export_plain"]
