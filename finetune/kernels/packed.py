"""Frozen weights in the order that a CPU multiplies them in.

oneDNN, which computes PyTorch's convolutions on a CPU, re-orders a weight into blocks at every call, forward
and backward. For a frozen weight once is enough; in a UNet at batch size 1 that is up to a third of a step.
These are the calls with which PyTorch's own compiler prepares models for inference; training needs the
products' other half too, the gradient of the input. docs/performance.md has figures.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from finetune.kernels.frozen import product
from finetune.kernels.memory import Scattered
from finetune.kernels.quantized import Quantized

_onednn: Any = torch.ops.mkldnn
_AT_ONCE = 128  # channels of a weight that are transposed together


@contextmanager
def packed(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, `layers` compute with re-ordered weights, and their plain weights take no memory.

    A weight is re-ordered when it is first used, and once more when the gradient of its layer's input is
    first asked for. Until the end its plain values read as NaN, so that nothing takes them for the weights;
    then they are again, to the bit, what they were.

    Args:
        layers: Frozen layers that `can_pack` accepts; several may share a weight.
    """
    weights: dict[int, PackedWeight] = {}
    layers, left = list(layers), Scattered()
    try:
        for layer in layers:
            layer.forward = weights.setdefault(id(layer.weight), _pack(layer, left))
        yield
    finally:
        for layer in layers:
            del layer.forward
        for weight in weights.values():
            weight.restore()


def can_pack(layer: nn.Module) -> bool:
    """Whether `packed` takes this layer: frozen, on a CPU, of a kind and precision that gain, not packed yet.

    That is a convolution without dilation or groups, in fp32 or in bf16 that the CPU computes in, or a linear
    layer in fp32. In bf16 a linear layer gains three percent, which is not worth its memory.
    """
    if isinstance(layer, Quantized) or not isinstance(layer, nn.Linear | nn.Conv2d):
        return False
    if any(p.requires_grad for p in layer.parameters()):
        return False
    if "forward" in vars(layer) or is_parametrized(layer):  # packed already, or its weight is computed anew
        return False
    if layer.weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if isinstance(layer, nn.Linear):
        return layer.weight.dtype == torch.float32
    bf16 = layer.weight.dtype == torch.bfloat16 and _onednn._is_mkldnn_bf16_supported()
    return _simple(layer) and (bf16 or layer.weight.dtype == torch.float32)


def _simple(layer: nn.Conv2d) -> bool:
    return (
        layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


class PackedWeight(ABC):
    """A layer's weight W in two orders, and the layer's forward pass with them.

    Args:
        layer: As `packed` takes it. Another layer with the same weight and shape may be computed too, if it
            has the same bias.
        left: Is told of the memory that weights leave behind.
    """

    def __init__(self, layer: Any, left: Scattered) -> None:
        self.weight, self.bias, self._left = layer.weight, layer.bias, left
        self._size = self.weight.numel() * self.weight.element_size()
        self._forward: Tensor | None = None
        self._backward: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output for `x`, which is converted to the weight's precision."""
        return product(x.to(self.weight.dtype), self)

    def output(self, x: Tensor) -> Tensor:
        """W · x + b."""
        if self._forward is None:
            self._forward = self.reordered(self.weight.detach(), x)
            self.weight.data = self.weight.new_full((1,), math.nan).expand(self.weight.shape)
            self._left.add(self._size)
        return self.product(x, self._forward, self.bias)

    def input_gradient(self, gradient: Tensor, shape: Sequence[int]) -> Tensor:
        """Wᵀ · gradient, for the gradient of `output` and the shape of its input."""
        gradient = self.spread(gradient, shape)
        if self._backward is None:
            self._backward = self.reordered(self.transposed(self._plain()), gradient, backward=True)
            self._left.add(2 * self._size)  # plain and transposed
        return self.product(gradient, self._backward, None, backward=True)

    def restore(self) -> None:
        """Gives the layer its plain weight again."""
        self._backward = None
        self.weight.data = self._plain()
        self._forward = None

    def _plain(self) -> Tensor:
        return self.weight.detach() if self._forward is None else self._forward.to_dense()

    def spread(self, gradient: Tensor, shape: Sequence[int]) -> Tensor:
        """The gradient of all that the product gave, if `output` kept only some of it."""
        return gradient

    @staticmethod
    @abstractmethod
    def transposed(weight: Tensor) -> Tensor:
        """The weight of the layer that maps gradients of the output to gradients of the input."""

    @abstractmethod
    def reordered(self, weight: Tensor, x: Tensor, *, backward: bool = False) -> Tensor:
        """`weight` in the order that is best for inputs like `x`; right for all."""

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, backward: bool = False) -> Tensor:
        """The product with a re-ordered weight."""


class PackedLinear(PackedWeight):
    """The weight of a linear layer, `[out, in]`."""

    @staticmethod
    def transposed(weight: Tensor) -> Tensor:
        """`[in, out]`."""
        return weight.t().contiguous()

    def reordered(self, weight: Tensor, x: Tensor, *, backward: bool = False) -> Tensor:
        """As `PackedWeight.reordered`."""
        # For one row oneDNN has an order with which single rows are rounded differently. What comes first may
        # not matter: a resumed run begins with other rows.
        rows = max(2, x.numel() // x.shape[-1])
        return _onednn._reorder_linear_weight(weight, rows)  # type: ignore[no-any-return]

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, backward: bool = False) -> Tensor:
        """As `PackedWeight.product`."""
        return _onednn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


class PackedConvolution(PackedWeight):
    """The weight of a convolution, `[out, in, kh, kw]`."""

    def __init__(self, layer: nn.Conv2d, left: Scattered) -> None:
        super().__init__(layer, left)
        self._stride, self._kernel = layer.stride, layer.kernel_size
        self._padding = [int(p) for p in layer.padding]
        # The gradient of the input is the full convolution with the flipped kernel.
        self._rest = [side - 1 - p for side, p in zip(layer.kernel_size, self._padding, strict=True)]

    def spread(self, gradient: Tensor, shape: Sequence[int]) -> Tensor:
        """With a stride, zeros between the rows and columns of the gradient.

        Such a convolution is one of stride 1 of whose output each second row and column is kept. PyTorch's
        own gradient takes twenty times as long where there are many channels.
        """
        if self._stride == (1, 1):
            return gradient
        sides = (
            side + 2 * p - kernel + 1
            for side, p, kernel in zip(shape[-2:], self._padding, self._kernel, strict=True)
        )
        full = gradient.new_zeros(*gradient.shape[:-2], *sides)
        full[..., :: self._stride[0], :: self._stride[1]] = gradient
        return full

    @staticmethod
    def transposed(weight: Tensor) -> Tensor:
        """`[in, out, kh, kw]`, flipped."""
        transposed = weight.new_empty([weight.shape[i] for i in (1, 0, 2, 3)])
        # Some at a time: what lies between is small then, and need not be fetched from memory.
        for some, given in zip(transposed.split(_AT_ONCE), weight.split(_AT_ONCE, 1), strict=True):
            some.copy_(given.transpose(0, 1).flip(2, 3))
        return transposed

    def reordered(self, weight: Tensor, x: Tensor, *, backward: bool = False) -> Tensor:
        """As `PackedWeight.reordered`."""
        geometry = self._geometry(backward)
        return _onednn._reorder_convolution_weight(weight, *geometry, list(x.shape))  # type: ignore[no-any-return]

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, backward: bool = False) -> Tensor:
        """As `PackedWeight.product`."""
        geometry = self._geometry(backward)
        return _onednn._convolution_pointwise(x, weight, bias, *geometry, "none", [], "")  # type: ignore[no-any-return]

    def _geometry(self, backward: bool) -> tuple[list[int], list[int], list[int], int]:
        """Padding, stride, dilation, groups."""
        return (self._rest, [1, 1], [1, 1], 1) if backward else (self._padding, list(self._stride), [1, 1], 1)


def _pack(layer: nn.Module, left: Scattered) -> PackedWeight:
    return PackedConvolution(layer, left) if isinstance(layer, nn.Conv2d) else PackedLinear(layer, left)
