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
_AT_ONCE = 2**20  # values of the attention matrix; they stay in a processor's cache
_PARTS = 2  # bf16 numbers that sum up to nearly an fp32 number


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
    heads, keys = query.shape[0] * query.shape[1], key.shape[2]
    s = 1 / math.sqrt(query.shape[3]) if scale is None else scale
    bias = _bias(query, key, attn_mask, causal)
    delta = (gradient.float() * output.float()).sum(-1)
    q_left, k_right = _with_columns(query * s, -logsumexp).flatten(0, 1), _with_ones(key).flatten(0, 1)
    g_left, v_right = _with_columns(gradient, -delta).flatten(0, 1), _with_ones(value).flatten(0, 1)
    q, k, g = query.flatten(0, 1), key.flatten(0, 1), gradient.flatten(0, 1)
    d_query, d_key, d_value = (torch.zeros(t.shape, dtype=torch.float32) for t in (q, k, k))
    rows = max(1, _AT_ONCE // keys)
    for head in range(heads):
        for first in range(0, q.shape[1], rows):
            some = slice(first, first + rows)
            p = q_left[head, some] @ k_right[head].t()
            if bias is not None:
                p += bias[head, some]
            p.exp_()
            d_scores = (g_left[head, some] @ v_right[head].t()).mul_(p)
            d_value[head] += p.t() @ g[head, some]
            d_key[head] += d_scores.t() @ q[head, some]
            d_query[head, some] = (d_scores @ k[head]).float()
    return (
        (d_query * s).to(query.dtype).view(query.shape),
        (d_key * s).to(key.dtype).view(key.shape),
        d_value.to(value.dtype).view(value.shape),
    )


def _with_columns(rows: Tensor, number: Tensor) -> Tensor:
    """`rows` `[…, d]` followed by numbers that sum up to `number` `[…]` (fp32): `[…, d + 2]`."""
    parts = []
    for _ in range(_PARTS):
        parts.append(number.to(rows.dtype))
        number = number - parts[-1].float()
    return torch.cat([rows, torch.stack(parts, -1)], -1)


def _with_ones(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(*rows.shape[:-1], _PARTS)], -1)


def _bias(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool) -> Tensor | None:
    """What is added to the scores, `[B·H, N, M]`; None for nothing."""
    shape = (*query.shape[:3], key.shape[2])
    if causal:
        mask = query.new_full(shape[2:], -math.inf).triu(1)
    return None if mask is None else mask.to(query.dtype).expand(shape).flatten(0, 1)
