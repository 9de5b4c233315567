"""Updates as matrices `[out, in · kh · kw]`, whole or as products."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Shape = tuple[int, ...]


def full_rank(shape: Shape) -> int:
    """The largest rank that the weight of a layer of this shape can have."""
    return min(shape[0], math.prod(shape[1:]))


def product(factor: tuple[Tensor, ...]) -> Tensor:
    """A matrix that is given whole or as a product of two."""
    return factor[0].flatten(1) if len(factor) == 1 else factor[0] @ factor[1].flatten(1)


def factored(factor: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """A matrix as a product `[rows, k]` times `[k, columns]`, with `k` at most its smaller side."""
    matrix = product(factor)
    if len(factor) == 2 and factor[1].shape[0] <= min(matrix.shape):
        return factor[0], factor[1].flatten(1)
    rows, columns = matrix.shape
    if rows <= columns:
        return torch.eye(rows), matrix
    return matrix, torch.eye(columns)


def tucker(row: Mapping[str, Tensor], name: str, core: str) -> tuple[Tensor, Tensor]:
    """The product of a file's tensors `{name}_a` and `{name}_b`, as `[out, rank]` and `[rank, in · kh · kw]`.

    With a core `[rank, rank, kh, kw]` ("tucker", FedPara's proposition 3) `a` is `[rank, out]` and the
    core belongs to `b`.

    Raises:
        ValueError: If one of the two is missing, or as `joined`.
    """
    if missing := [role for role in (f"{name}_a", f"{name}_b") if role not in row]:
        raise ValueError(f"{missing[0]} is missing")
    a, b = row[f"{name}_a"], row[f"{name}_b"]
    if core not in row:
        return a, b.flatten(1)
    return a.T.contiguous(), joined("ijkl,jn->inkl", row[core], b).flatten(1)


def joined(rule: str, core: Tensor, matrix: Tensor) -> Tensor:
    """The product of a core and a matrix.

    Args:
        rule: As `torch.einsum` takes it.
        core: `[rank, rank, kh, kw]`.
        matrix: Two dimensions.

    Raises:
        ValueError: If they do not fit.
    """
    try:
        return torch.einsum(rule, core, matrix)
    except RuntimeError:
        shapes = f"{tuple(core.shape)} and {tuple(matrix.shape)}"
        raise ValueError(f"has a core and a matrix that do not fit: {shapes}") from None


def decomposed(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA's weight `m · V / ‖V‖` with `V = weight + delta` (arXiv:2402.09353, equation 5).

    A part of V that is zero has no direction and stays zero.

    Args:
        weight: The pretrained weight, `[out, in]` or `[out, in, kh, kw]`.
        delta: The change of the direction, of the same shape.
        magnitude: m, of as many dimensions, one number for each output (`[out, 1, …]`) or for each input
            (`[1, in, …]`, LyCORIS with `wd_on_output=False`); the norm is that of all weights of it.
    """
    direction = weight + delta
    over = [axis for axis, size in enumerate(magnitude.shape) if size == 1]
    norm = torch.linalg.vector_norm(direction, dim=over, keepdim=True)
    made: Tensor = direction / norm.clamp_min(1e-30) * magnitude
    return made
