"""Parts of a model that are replaced for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Swap:
    """Another value for an attribute of a module, one that is neither a parameter nor a module."""

    module: nn.Module
    name: str
    value: Any


@contextmanager
def swapped(swaps: Sequence[Swap]) -> Iterator[None]:
    """Inside, the attributes have the other values; afterward those that they had, or none of their own."""
    before = [vars(swap.module).get(swap.name) for swap in swaps]
    try:
        for swap in swaps:
            setattr(swap.module, swap.name, swap.value)
        yield
    finally:
        for swap, value in zip(swaps, before, strict=True):
            if value is None:
                vars(swap.module).pop(swap.name, None)
            else:
                setattr(swap.module, swap.name, value)
