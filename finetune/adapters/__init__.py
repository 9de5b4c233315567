"""What is trained, behind one `Adapter`."""

from __future__ import annotations

from finetune.adapters.algorithms.loha import Hadamard
from finetune.adapters.algorithms.lokr import Kronecker
from finetune.adapters.algorithms.lora import LowRank
from finetune.adapters.base import Adapter
from finetune.adapters.controlnet import ControlNet
from finetune.adapters.embedding import TextualInversion
from finetune.adapters.full import Full
from finetune.adapters.lora import LoRA
from finetune.adapters.weights import LayerWeights, LoRAWeights

__all__ = [
    "Adapter",
    "ControlNet",
    "Full",
    "Hadamard",
    "Kronecker",
    "LayerWeights",
    "LoRA",
    "LoRAWeights",
    "LowRank",
    "TextualInversion",
]
