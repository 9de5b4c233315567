"""Files of LoRAs and new words, in kohya's and diffusers' layouts, ours or someone else's."""

from __future__ import annotations

from finetune.backbones.tensors import read_tensors
from finetune.formats.apply import Applied, apply_lora
from finetune.formats.checkpoint import write_checkpoint
from finetune.formats.controlnet import write_control_lora, write_controlnet
from finetune.formats.diffusers import write_diffusers
from finetune.formats.embeddings import DIFFUSERS_EMBEDDING, read_embedding, write_embedding
from finetune.formats.kohya import write_kohya
from finetune.formats.metadata import DataFacts, run_metadata
from finetune.formats.read import find_lora, read_lora
from finetune.formats.tensors import write_tensors
from finetune.formats.write import write_lora

__all__ = [
    "DIFFUSERS_EMBEDDING",
    "Applied",
    "DataFacts",
    "apply_lora",
    "find_lora",
    "read_embedding",
    "read_lora",
    "read_tensors",
    "run_metadata",
    "write_checkpoint",
    "write_control_lora",
    "write_controlnet",
    "write_diffusers",
    "write_embedding",
    "write_kohya",
    "write_lora",
    "write_tensors",
]
