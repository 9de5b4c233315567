"""What is trained: `LoRA` or `Full`, behind one `Adapter`."""

from __future__ import annotations

from finetune.adapters.base import Adapter, ParameterGroup
from finetune.adapters.full import Full
from finetune.adapters.lora import LoRA
from finetune.adapters.weights import LayerWeights, LoRAWeights

__all__ = ["Adapter", "Full", "LayerWeights", "LoRA", "LoRAWeights", "ParameterGroup"]
