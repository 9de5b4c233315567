"""Loaded Stable Diffusion models (SD 1.x, SD 2.x, SDXL) and everything specific to a family."""

from __future__ import annotations

from finetune.backbones.backbone import Backbone
from finetune.backbones.families import Family
from finetune.backbones.load import load_backbone, load_stored
from finetune.backbones.resolve import resolve_model

__all__ = ["Backbone", "Family", "load_backbone", "load_stored", "resolve_model"]
