"""The backward pass of attention as matrix products, for bf16 on a CPU.

PyTorch's flash attention multiplies small tiles in its backward pass; oneDNN's products of long rows, of
which this is made, take two thirds of its time. The softmax is not computed again: the forward pass gives the
logarithm of its denominator (Dao et al. 2022, arXiv:2205.14135, section 3.1).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.library import _scoped_library

_KERNEL = "_scaled_dot_product_flash_attention_for_cpu_backward"
_AT_ONCE = (
    2**22
)  # values of the attention matrix: more do not fit a processor's cache, and fewer are not faster


@contextmanager
def attention_by_products() -> Iterator[None]:
    """Inside, `F.scaled_dot_product_attention` of bf16 on a CPU has this module's backward pass."""
    with _scoped_library("aten", "IMPL") as library, warnings.catch_warnings():
        # PyTorch warns of what is the purpose: that its own kernel is replaced.
        warnings.filterwarnings("ignore", message="Warning only once for all operators")
        library.impl(_KERNEL, attention_backward, "CPU")
        yield


def attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    dropout: float,
    causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value; called by PyTorch, with the arguments of its own kernel.

    With P = exp(s·QKᵀ − L), where L is the logsumexp and s the scale, and D the sum of gradient x output over
    the channels: ∂V = Pᵀ∂O, ∂S = P ∘ (∂O·Vᵀ − D), ∂Q = s·∂S·K, ∂K = s·∂Sᵀ·Q. L and D are subtracted inside
    the products, as further columns, so that the difference is rounded to bf16 and not its parts.

    Args:
        gradient: Of the output, `[B, H, N, d]`.
        query: `[B, H, N, d]`.
        key: `[B, H, M, d]`.
        value: `[B, H, M, d]`.
        output: Of the forward pass, `[B, H, N, d]`.
        logsumexp: Of the forward pass, `[B, H, N]` fp32.
        dropout: Always 0 on a CPU.
        causal: Whether a query sees no later keys.
        attn_mask: What is added to s·QKᵀ, in a shape that broadcasts to `[B, H, N, M]`.
        scale: s; 1/√d if None.
    """
    heads, queries, keys = query.shape[0] * query.shape[1], query.shape[2], key.shape[2]
    s = 1 / math.sqrt(query.shape[3]) if scale is None else scale
    bias = _bias(query, key, attn_mask, causal)
    delta = (gradient.float() * output.float()).sum(-1)
    q_right, k_left = _with_columns(query * s, -logsumexp).flatten(0, 1), _with_ones(key).flatten(0, 1)
    g_right, v_left = _with_columns(gradient, -delta).flatten(0, 1), _with_ones(value).flatten(0, 1)
    q, k, g = (t.flatten(0, 1).contiguous() for t in (query, key, gradient))
    d_query, d_key, d_value = torch.empty_like(q), torch.empty_like(k), torch.empty_like(k)
    at_once, rows = max(1, _AT_ONCE // (queries * keys)), max(1, _AT_ONCE // keys)
    for first in range(0, heads, at_once):
        some = slice(first, first + at_once)
        sums = [torch.zeros(k[some].shape, dtype=torch.float32) for _ in range(2)]
        for row in range(0, queries, rows):
            part = some, slice(row, row + rows)
            # Transposed, keys x queries, since two of the three products to come are with Pᵀ and ∂Sᵀ.
            p = torch.bmm(k_left[some], q_right[part].mT)
            if bias is not None:
                p += bias[part].mT
            p.exp_()
            d_scores = torch.bmm(v_left[some], g_right[part].mT).mul_(p)
            sums[0] += torch.bmm(d_scores, q[part])
            sums[1] += torch.bmm(p, g[part])
            d_query[part] = torch.bmm(d_scores.mT, k[some])
        d_key[some], d_value[some] = sums[0] * s, sums[1]
    d_query *= s
    return d_query.view(query.shape), d_key.view(key.shape), d_value.view(value.shape)


def _with_columns(rows: Tensor, number: Tensor) -> Tensor:
    """`rows` `[…, d]` followed by two numbers that sum up to `number` `[…]` (fp32): `[…, d + 2]`."""
    high = number.to(rows.dtype)
    return torch.cat([rows, torch.stack([high, (number - high.float()).to(rows.dtype)], -1)], -1)


def _with_ones(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(*rows.shape[:-1], 2)], -1)


def _bias(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool) -> Tensor | None:
    """What is added to the scores, `[B·H, N, M]`; None for nothing."""
    shape = (*query.shape[:3], key.shape[2])
    if causal:
        mask = query.new_full(shape[2:], -math.inf).triu(1)
    return None if mask is None else mask.to(query.dtype).expand(shape).flatten(0, 1)
