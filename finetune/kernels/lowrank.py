"""A frozen linear layer and its low-rank update as one node of the autograd graph.

PEFT computes W·x + b and s·B·(A·x) one after the other: it copies the input to the update's precision, scales
and adds tensors of the output's size, and keeps several for the backward pass. Here the update is added into
the product, and only x and A·x are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.kernels.frozen import Frozen
from finetune.kernels.packed import PackedWeight
from finetune.kernels.quantized import Quantized


def with_update(x: Tensor, layer: nn.Linear, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """(W + s·B·A)·x + b, whose gradients go to x, A and B.

    Args:
        x: `[…, in]`; computed in its precision, in that of `torch.autocast`, or with a packed layer in the
            weight's.
        layer: A frozen linear layer, plain, packed or quantized.
        down: A, `[rank, in]`, fp32.
        up: B, `[out, rank]`, fp32.
        scale: s.
    """
    frozen = _frozen(layer)
    if isinstance(frozen, PackedWeight):
        x = x.to(frozen.weight.dtype)
    elif torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return _WithUpdate.apply(x, down, up, scale, frozen)  # type: ignore[no-any-return, no-untyped-call]


def _frozen(layer: Any) -> Frozen:
    forward = vars(layer).get("forward")
    if isinstance(forward, PackedWeight):
        return forward
    return layer if isinstance(layer, Quantized) else _Plain(layer)


class _Plain:
    """A linear layer in the order that PyTorch keeps weights in."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight, layer.bias

    def output(self, x: Tensor) -> Tensor:
        """As `Frozen.output`."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)

    def input_gradient(self, gradient: Tensor, shape: Sequence[int]) -> Tensor:
        """As `Frozen.input_gradient`."""
        return gradient @ self.weight.to(gradient.dtype)


class _WithUpdate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, scale: float, layer: Frozen) -> Tensor:
        a, b = down.to(x.dtype), (up * scale).to(x.dtype)
        low = F.linear(x.flatten(0, -2), a).to(x.dtype)  # autocast would round it for an fp32 weight, too
        output = layer.output(x)
        output.view(-1, output.shape[-1]).addmm_(low, b.t())
        ctx.save_for_backward(x, low, a, b)
        ctx.scale, ctx.layer, ctx.types = scale, layer, (down.dtype, up.dtype)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, low, a, b = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        rows = gradient.flatten(0, -2)
        d_low = rows @ b
        d_down, d_up = d_low.t() @ x.flatten(0, -2), (low.t() @ rows).t()
        d_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            d_x = ctx.layer.input_gradient(gradient, x.shape)
            d_x.view(-1, d_x.shape[-1]).addmm_(d_low, a)
        return d_x, d_down.to(ctx.types[0]), d_up.to(ctx.types[1]) * ctx.scale, None, None
