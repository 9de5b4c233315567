"""Quantized weights and layers against the formula, bitsandbytes' own functions and plain layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from statistics import NormalDist

import bitsandbytes
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from finetune.backbones.memory import move
from finetune.kernels import can_pack, can_quantize, count_weights, quantized, weight_shape
from finetune.kernels.quantized import BLOCK, KINDS, quantize
from tests.kernels.test_packed import run

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(48, 80), (2, 7, 48)),
    "odd": (lambda: nn.Linear(5, 7, bias=False), (3, 5)),
    "3x3": (lambda: nn.Conv2d(32, 48, 3, padding=1), (2, 32, 8, 8)),
    "1x1": (lambda: nn.Conv2d(32, 16, 1, bias=False), (1, 32, 4, 6)),
    "stride": (lambda: nn.Conv2d(6, 9, 3, stride=2, padding=1), (1, 6, 9, 5)),
}


@pytest.fixture(params=LAYERS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    make, shape = LAYERS[request.param]
    torch.manual_seed(0)
    return make().requires_grad_(False), torch.randn(shape)


def quantiles(count: int) -> list[float]:
    """So many positive quantiles of the normal distribution, the largest 1 (arXiv:2305.14314, section 3)."""
    offset = (29 / 30 + 31 / 32) / 2  # the mean of the two outermost that have an equal share beyond them
    found = [NormalDist().inv_cdf(offset + (0.5 - offset) * k / count) for k in range(count)]
    return sorted(value / found[0] for value in found)


def levels(kind: str) -> Tensor:
    if kind == "int8":
        return torch.arange(-127, 128) / 127
    return torch.tensor([*(-value for value in reversed(quantiles(7))), 0.0, *quantiles(8)])


def plain(layer: nn.Module, kind: str) -> nn.Module:
    """The layer with the weights that a quantized one has."""
    other = copy.deepcopy(layer)
    other.weight.data = quantized(layer, kind).weight  # type: ignore[union-attr]
    return other


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_a_weight_is_its_nearest_level_times_the_largest_of_its_block(kind: str, dtype: torch.dtype) -> None:
    layer = nn.Linear(25, 7, bias=False).requires_grad_(False)  # 175 weights: the last block is not full
    torch.manual_seed(1)
    layer.weight.data = torch.randn(7, 25).to(dtype)
    layer.weight.data.view(-1)[BLOCK : 2 * BLOCK] = 0
    found, given = quantized(layer, kind).weight.view(-1), layer.weight.float().view(-1)
    for start in range(0, len(given), BLOCK):
        block = given[start : start + BLOCK]
        scale = block.abs().max()
        nearest = (block[:, None] - levels(kind) * scale).abs().argmin(1)
        expected = levels(kind)[nearest] * scale
        torch.testing.assert_close(found[start : start + BLOCK], expected, rtol=1e-5, atol=0)


def test_nf4_is_that_of_bitsandbytes() -> None:
    torch.manual_seed(0)
    weight = torch.randn(96, 128)
    codes, scales = quantize(weight, "nf4")
    theirs, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4", blocksize=BLOCK)
    assert torch.equal(codes.view(-1), theirs.view(-1)) and torch.equal(scales, state.absmax)
    for dtype in (torch.float32, torch.bfloat16):
        state.dtype = dtype
        layer = nn.Linear(128, 96).requires_grad_(False)
        layer.weight.data = weight
        expected = bitsandbytes.functional.dequantize_4bit(theirs, state)
        assert torch.equal(quantized(layer, "nf4").weight_in(dtype), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_layer_is_the_plain_one_with_its_weights(
    kind: str, dtype: torch.dtype, case: tuple[nn.Module, Tensor]
) -> None:
    layer, x = case[0], case[1].to(dtype)
    made, other = quantized(layer, kind).to(dtype), plain(layer, kind).to(dtype)
    for own, expected in zip(run(made, x), run(other, x), strict=True):
        torch.testing.assert_close(own, expected)
        assert own.dtype == dtype
    with torch.no_grad():
        torch.testing.assert_close(made(x), other(x))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_is_that_of_a_plain_layer(kind: str, case: tuple[nn.Module, Tensor]) -> None:
    layer, x = case
    with torch.autocast("cpu", torch.bfloat16):
        pair = [run(one, x) for one in (quantized(layer, kind), plain(layer, kind))]
    for own, expected in zip(*pair, strict=True):
        assert own.dtype == expected.dtype
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8.5), ("nf4", 4.5)])
def test_memory_is_the_bits_it_says_also_between_forward_and_backward(kind: str, bits: float) -> None:
    made = quantized(nn.Linear(256, 64).requires_grad_(False), kind)
    size = sum(p.numel() * p.element_size() for p in (made.qweight, made.scale_bits))
    assert 8 * size / (256 * 64) == bits
    assert count_weights(made) == 256 * 64 + 64
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        made(torch.randn(2, 256, requires_grad=True)).sum().backward()
    assert kept == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_cast_changes_no_weight(kind: str, case: tuple[nn.Module, Tensor]) -> None:
    made = quantized(case[0], kind)
    before = made.weight
    move(made, "cpu", torch.bfloat16)
    assert torch.equal(made.to(torch.float16).half().weight, before)
    assert torch.equal(copy.deepcopy(made).weight, before)
    assert weight_shape(made) == weight_shape(case[0]) == tuple(before.shape)


def test_who_is_quantized_and_who_is_packed() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1).requires_grad_(False)
    assert can_quantize(layer) and can_pack(layer)
    assert not can_pack(quantized(layer, "int8")) and not can_quantize(quantized(layer, "int8"))
    for other in (
        nn.Conv2d(8, 8, 3, padding="same").requires_grad_(False),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect").requires_grad_(False),
        nn.Linear(8, 8),  # trained
        nn.LayerNorm(8).requires_grad_(False),
    ):
        assert not can_quantize(other)
