"""Moves modules between devices and precisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock

import torch
from torch import Tensor, nn

from finetune.kernels import release_mapped

# Rows may be encoded by another thread than the one that samples a preview.
_one_at_a_time = RLock()


def move(module: nn.Module, device: torch.device | str, dtype: torch.dtype | None) -> None:
    """Moves all weights to `device` and casts those that are not trained to `dtype`, if one is given.

    It goes from tensor to tensor, and what was mapped from a file gives its memory back at once, so that the
    weights are never held twice.
    """
    for tensor in _tensors(module):
        cast = dtype is not None and tensor.is_floating_point() and not tensor.requires_grad
        before = tensor.data
        tensor.data = before.to(device, dtype if cast else tensor.dtype)
        if tensor.data_ptr() != before.data_ptr():
            release_mapped(before)


@contextmanager
def computing_in(dtype: torch.dtype | None, modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, the weights that are not trained are in `dtype`; afterward they are the very tensors they were.

    Those that were mapped from a file then take no memory. Only one thread at a time is inside. If `dtype` is
    None, nothing is done.
    """
    if dtype is None:
        yield
        return
    with _one_at_a_time:
        stored = [(tensor, tensor.data) for module in modules for tensor in _tensors(module)]
        stored = [(tensor, data) for tensor, data in stored if data.dtype != dtype]
        try:
            for module in modules:
                move(module, next(module.parameters()).device, dtype)
            yield
        finally:
            for tensor, data in stored:
                tensor.data = data


def release(module: nn.Module) -> None:
    """Weights that are mapped from a file take no memory until they are used again."""
    for tensor in _tensors(module):
        release_mapped(tensor.data)


def is_trained(module: nn.Module) -> bool:
    """Whether any weight of a module is trained."""
    return any(parameter.requires_grad for parameter in module.parameters())


def _tensors(module: nn.Module) -> tuple[Tensor, ...]:
    return (*module.parameters(), *module.buffers())
