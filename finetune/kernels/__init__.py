"""Faster ways to compute what PyTorch's layers compute, each for one kind of device."""

from finetune.kernels.memory import give_back_freed_memory, keep_freed_memory
from finetune.kernels.packed import can_pack, packed

__all__ = ["can_pack", "give_back_freed_memory", "keep_freed_memory", "packed"]
