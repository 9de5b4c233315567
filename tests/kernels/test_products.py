"""The backward pass of attention by products: as near to the formula as PyTorch's own kernel, roughly."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.kernels import products
from finetune.kernels.products import attention_by_products

Three = tuple[Tensor, Tensor, Tensor]


def inputs(queries: int, keys: int, channels: int = 40) -> tuple[Tensor, ...]:
    """Query, key, value and the gradient of the output, bf16."""
    generator = torch.Generator().manual_seed(0)
    sizes = (queries, keys, keys, queries)
    return tuple(torch.randn(2, 3, n, channels, generator=generator).bfloat16() for n in sizes)


def gradients(query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, **how: object) -> Three:
    given = [t.clone().requires_grad_() for t in (query, key, value)]
    output = F.scaled_dot_product_attention(*given, **how)  # type: ignore[arg-type]
    return torch.autograd.grad(output, given, gradient)  # type: ignore[return-value]


def exact(query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, bias: Tensor | None = None) -> Three:
    """Softmax attention written out, in fp64."""
    q, k, v = (t.double().requires_grad_() for t in (query, key, value))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    output = (scores if bias is None else scores + bias).softmax(-1) @ v
    return torch.autograd.grad(output, (q, k, v), gradient.double())  # type: ignore[return-value]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("at_once", [2**20, 700])
@pytest.mark.parametrize(("queries", "keys"), [(64, 64), (130, 77), (33, 257)])
def test_gradients_are_those_of_the_formula(
    queries: int, keys: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_AT_ONCE", at_once)  # several rows at a time, and a rest
    given = inputs(queries, keys)
    with attention_by_products():
        found = gradients(*given)
    plain = gradients(*given)
    for own, theirs, right in zip(found, plain, exact(*given), strict=True):
        assert error(own, right) < 0.01
        assert own.dtype == theirs.dtype and own.shape == theirs.shape
        assert not torch.equal(own, theirs)  # another kernel was used


def test_large_scores_are_rounded_after_the_subtraction() -> None:
    query, key, value, gradient = inputs(64, 64)
    query = query * 16  # scores of 100, which bf16 would round to halves
    with attention_by_products():
        found = gradients(query, key, value, gradient)
    for own, right in zip(found, exact(query, key, value, gradient), strict=True):
        assert error(own, right) < 0.03


def test_masks_and_causality_hold() -> None:
    given = inputs(48, 48)
    causal = torch.full((48, 48), -torch.inf).triu(1)
    mask = torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    with attention_by_products():
        for found, bias in (
            (gradients(*given, is_causal=True), causal),
            (gradients(*given, attn_mask=mask.bfloat16()), mask.bfloat16()),
        ):
            for own, right in zip(found, exact(*given, bias.double()), strict=True):
                assert error(own, right) < 0.01


def test_afterward_pytorch_s_own_kernel_is_back_and_nothing_was_told() -> None:
    given = inputs(32, 32)
    before = gradients(*given)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            with attention_by_products():
                gradients(*given)
    assert not told
    assert all(torch.equal(one, other) for one, other in zip(gradients(*given), before, strict=True))
