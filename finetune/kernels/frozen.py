"""The product with a frozen weight, for which nothing is kept for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Frozen(Protocol):
    """What a frozen layer computes, in the precision of what it is given."""

    def output(self, x: Tensor) -> Tensor:
        """W · x + b."""

    def input_gradient(self, gradient: Tensor, shape: Sequence[int]) -> Tensor:
        """Wᵀ · gradient, for the gradient of `output` and an input of `shape`."""


def product(x: Tensor, layer: Frozen) -> Tensor:
    """W · x + b, of which only `x` gets a gradient."""
    if x.requires_grad and torch.is_grad_enabled():
        return _Product.apply(x, layer)  # type: ignore[no-any-return, no-untyped-call]
    return layer.output(x)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Frozen) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        return layer.output(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.input_gradient(gradients[0], ctx.shape), None
