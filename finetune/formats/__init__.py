"""LoRA files: kohya's and diffusers' layouts, ours or someone else's, and their metadata."""

from __future__ import annotations

from finetune.formats.apply import Applied, apply_lora
from finetune.formats.diffusers import write_diffusers
from finetune.formats.kohya import write_kohya
from finetune.formats.metadata import DataFacts, run_metadata
from finetune.formats.read import DIFFUSERS_FILE, find_lora, read_lora
from finetune.formats.tensors import read_tensors, write_tensors

__all__ = [
    "DIFFUSERS_FILE",
    "Applied",
    "DataFacts",
    "apply_lora",
    "find_lora",
    "read_lora",
    "read_tensors",
    "run_metadata",
    "write_diffusers",
    "write_kohya",
    "write_tensors",
]
