"""Faster ways to compute what PyTorch's layers compute, each for one kind of device."""

from finetune.kernels.attention import attention
from finetune.kernels.compiled import compiled
from finetune.kernels.lowrank import with_update
from finetune.kernels.memory import give_back_freed_memory, keep_freed_memory, release_mapped
from finetune.kernels.packed import can_pack, packed
from finetune.kernels.products import attention_by_products
from finetune.kernels.quantized import (
    Quantized,
    can_quantize,
    count_weights,
    quantized,
    quantized_layers,
    weight_shape,
)
from finetune.kernels.swapped import Swap, swapped
from finetune.kernels.tf32 import tf32

__all__ = [
    "Quantized",
    "Swap",
    "attention",
    "attention_by_products",
    "can_pack",
    "can_quantize",
    "compiled",
    "count_weights",
    "give_back_freed_memory",
    "keep_freed_memory",
    "packed",
    "quantized",
    "quantized_layers",
    "release_mapped",
    "swapped",
    "tf32",
    "weight_shape",
    "with_update",
]
