"""Other shapes of a trained result: the whole model with the LoRA merged in."""

from __future__ import annotations

from finetune.export.merge import export_merged

__all__ = ["export_merged"]
