"""Layers whose frozen weights are stored in 8 or 4 bits, and multiplied with in full precision.

Each block of 64 weights is divided by its largest magnitude, the scale, which is stored in fp32. Of each
quotient, the nearest of some levels in [-1, 1] is stored.

| kind | levels | bits a weight, scales included |
|---|---|---|
| `int8` | k/127 for k = -127 … 127 | 8.5 |
| `nf4` | the 16 of NormalFloat (Dettmers et al. 2023, arXiv:2305.14314, appendix E) | 4.5 |

Level x scale is computed whenever a weight is used, forward and backward, by bitsandbytes; the product itself
is that of plain weights. bitsandbytes' own layers (0.50.2) would not do: there is none for convolutions;
`Linear8bitLt` rounds the input too, and fails with bf16 on a CPU; there `Linear4bit` takes wrong scales where
a row is not a whole number of blocks, so that here each block is a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from finetune.config.choices import imported
from finetune.kernels.frozen import product

BLOCK = 64
_AT_ONCE = 4096  # blocks that are quantized together; they stay in a processor's cache
_LOWEST = torch.finfo(torch.float32).tiny


class Quantized(nn.Module):
    """What quantized layers share; PEFT's layers, and all that reads `weight`, take them for plain ones.

    Attributes:
        kind: A key of `KINDS`.
        shape: The weight's.
        qweight: Numbers of levels, `[blocks, …]` bytes; PEFT looks for a layer's device under this name.
        scale_bits: The scales, `[blocks]` fp32 that are held as integers, so that they stay when a model is
            cast to another precision.
    """

    kind: str
    shape: torch.Size
    qweight: nn.Parameter
    scale_bits: nn.Parameter
    bias: nn.Parameter | None

    @property
    def weight(self) -> Tensor:
        """The weights, in fp32; computed anew each time, and to change them changes nothing."""
        return self.weight_in(torch.float32)

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """The weights in a precision."""
        flat = KINDS[self.kind].dequantize(self.qweight, self.scale_bits.view(torch.float32), dtype)
        return flat.view(-1)[: self.shape.numel()].view(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, in the precision of `x` or of `torch.autocast`."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return product(x, self)

    def output(self, x: Tensor) -> Tensor:
        """W · x + b, in the precision of `x`."""
        raise NotImplementedError

    def input_gradient(self, gradient: Tensor, shape: Sequence[int]) -> Tensor:
        """Wᵀ · gradient, for the gradient of `output` and an input of `shape`."""
        raise NotImplementedError

    def _bias(self, dtype: torch.dtype) -> Tensor | None:
        return None if self.bias is None else self.bias.to(dtype)


class QuantizedLinear(Quantized, nn.Linear):  # type: ignore[misc, override]  # `weight` is computed
    """A linear layer, `[out, in]`."""

    def output(self, x: Tensor) -> Tensor:
        """As `Quantized.output`."""
        return F.linear(x, self.weight_in(x.dtype), self._bias(x.dtype))

    def input_gradient(self, gradient: Tensor, shape: Sequence[int]) -> Tensor:
        """As `Quantized.input_gradient`."""
        return gradient @ self.weight_in(gradient.dtype)


class QuantizedConvolution(Quantized, nn.Conv2d):  # type: ignore[misc, override]
    """A convolution, `[out, in, kh, kw]`."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        """A plain convolution if made of sizes: PEFT (0.21) makes a LoRA's of the class of its layer."""
        return nn.Conv2d(*arguments, **named) if arguments or named else super().__new__(cls)

    def output(self, x: Tensor) -> Tensor:
        """As `Quantized.output`."""
        return F.conv2d(x, self.weight_in(x.dtype), self._bias(x.dtype), *self._geometry())

    def input_gradient(self, gradient: Tensor, shape: Sequence[int]) -> Tensor:
        """As `Quantized.input_gradient`."""
        weight = self.weight_in(gradient.dtype)
        return conv2d_input(shape, weight, gradient, *self._geometry())  # type: ignore[no-any-return]

    def _geometry(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups


def can_quantize(layer: nn.Module) -> bool:
    """Whether `quantized` takes this layer: a frozen linear one, or a convolution that pads with zeros."""
    if type(layer) is nn.Conv2d and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return False
    return type(layer) in (nn.Linear, nn.Conv2d) and not any(p.requires_grad for p in layer.parameters())


def quantized(layer: Any, kind: str) -> Quantized:
    """A layer that acts as another one, but for the rounding of its weights; the bias is the very same.

    Args:
        layer: As `can_quantize` accepts it.
        kind: A key of `KINDS`.
    """
    made: Quantized = object.__new__(
        QuantizedConvolution if isinstance(layer, nn.Conv2d) else QuantizedLinear
    )
    nn.Module.__init__(made)
    for name in vars(layer).keys() - vars(made).keys():
        setattr(made, name, getattr(layer, name))
    made.train(layer.training)
    made.kind, made.shape = kind, layer.weight.shape
    codes, scales = quantize(layer.weight.detach(), kind)
    made.qweight = nn.Parameter(codes, requires_grad=False)
    made.scale_bits = nn.Parameter(scales.view(torch.int32), requires_grad=False)
    made.bias = layer.bias
    return made


def quantize(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Weights to numbers of levels and scales; the same on every machine, to the bit.

    Args:
        weight: Of any shape and floating type.
        kind: A key of `KINDS`.

    Returns:
        `[blocks, 64]` (int8) or `[blocks, 32]` bytes, and `[blocks]` fp32; zeros fill up the last block.
    """
    blocks = F.pad(weight.reshape(-1), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    codes, scales = [], []
    for some in blocks.split(_AT_ONCE):
        scale = some.abs().amax(1, keepdim=True).float()
        scales.append(scale.view(-1))
        codes.append(KINDS[kind].nearest(some.float() / scale.clamp(min=_LOWEST)))
    return torch.cat(codes), torch.cat(scales)


@dataclass(frozen=True)
class Kind:
    """A way to store numbers.

    Attributes:
        nearest: From quotients in [-1, 1], `[blocks, 64]`, to the bytes that stand for the nearest levels.
        dequantize: From those and scales to the weights in a precision, `[blocks, 64]`.
    """

    nearest: Callable[[Tensor], Tensor]
    dequantize: Callable[[Tensor, Tensor, torch.dtype], Tensor]


def _nearest_int8(quotients: Tensor) -> Tensor:
    return (quotients * 127).round_().add_(128).to(torch.uint8)


def _dequantize_int8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    bnb = _bitsandbytes()
    state = bnb.QuantState(absmax=scales, code=_levels(codes.device), blocksize=BLOCK, dtype=dtype)
    return bnb.dequantize_blockwise(codes, state)  # type: ignore[no-any-return]


def _nearest_nf4(quotients: Tensor) -> Tensor:
    levels = _bitsandbytes().get_4bit_type("nf4", device="cpu")
    numbers = torch.zeros_like(quotients, dtype=torch.uint8)
    for middle in ((levels[1:] + levels[:-1]) / 2).tolist():
        numbers += quotients > middle
    return numbers[:, ::2] << 4 | numbers[:, 1::2]


def _dequantize_nf4(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    bnb, shape = _bitsandbytes(), torch.Size((len(scales), BLOCK))
    state = bnb.QuantState(absmax=scales, shape=shape, dtype=dtype, blocksize=BLOCK, quant_type="nf4")
    return bnb.dequantize_4bit(codes.view(-1), state)  # type: ignore[no-any-return]


KINDS = {"int8": Kind(_nearest_int8, _dequantize_int8), "nf4": Kind(_nearest_nf4, _dequantize_nf4)}


@cache
def _levels(device: torch.device) -> Tensor:
    """The levels of int8 by their bytes; the first is never used."""
    return (torch.arange(-128, 128, dtype=torch.float32) / 127).to(device)


def _bitsandbytes() -> Any:
    return imported("bitsandbytes:functional")  # takes a second, and most runs do not need it


def weight_shape(layer: Any) -> tuple[int, ...]:
    """The shape of a layer's weight, without computing it."""
    return tuple(layer.shape if isinstance(layer, Quantized) else layer.weight.shape)


def quantized_layers(module: nn.Module) -> Iterator[Quantized]:
    """Those in a module."""
    return (layer for layer in module.modules() if isinstance(layer, Quantized))


def count_weights(module: nn.Module) -> int:
    """How many weights a module has, whatever they are stored in."""
    stored = sum(layer.qweight.numel() + layer.scale_bits.numel() for layer in quantized_layers(module))
    meant = sum(math.prod(layer.shape) for layer in quantized_layers(module))
    return sum(parameter.numel() for parameter in module.parameters()) - stored + meant
