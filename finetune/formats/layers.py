"""Turns the tensors that a file has for one layer into the layer's update."""

from __future__ import annotations

from collections.abc import Collection

import torch

from finetune.adapters.algorithms import weight_classes
from finetune.adapters.algorithms.lora import LowRank
from finetune.adapters.matrices import Shape
from finetune.adapters.weights import LayerWeights, Role, Row, Strength


def may_be_update(roles: Collection[Role]) -> bool:
    """Whether the tensors of one layer could be an update of any algorithm."""
    return any(not kind.leading.isdisjoint(roles) for kind in weight_classes())


def layer_weights(row: Row, shape: Shape, strength: Strength) -> LayerWeights:
    """The update of one layer, in fp32.

    Args:
        row: Its tensors by role.
        shape: The shape of the layer's weight.
        strength: Used if there is no alpha among the tensors.

    Raises:
        ValueError: If tensors are missing, not finite or of the wrong shape; the message says so.
    """
    row = {role: tensor.float() for role, tensor in row.items()}  # fp8 tensors support little else
    if empty := [role for role, tensor in row.items() if tensor.numel() == 0]:
        raise ValueError(f"{empty[0]} is empty")
    kind = _kind(row.keys())
    flat_ones = {"alpha", *LowRank.flat, *kind.flat}
    if flat := [role for role, tensor in row.items() if tensor.ndim < 2 and role not in flat_ones]:
        raise ValueError(f"{flat[0]} has the shape {tuple(row[flat[0]].shape)}")
    if not all(torch.isfinite(tensor).all() for tensor in row.values()):
        raise ValueError("holds NaN or infinite values")
    if "alpha" in row and row["alpha"].numel() != 1:
        raise ValueError(f"has {row['alpha'].numel()} alphas")
    if "dora_scale" in row and kind is not LowRank:
        raise ValueError("has DoRA magnitudes, which are supported for LoRA only")
    return kind.from_file(row, shape, strength)


def _kind(roles: Collection[Role]) -> type[LayerWeights]:
    """The algorithm other than LoRA that uses one of `roles`; LoRA if none does."""
    others = (kind for kind in weight_classes() if kind is not LowRank)
    return next((kind for kind in others if not set(kind.suffixes.values()).isdisjoint(roles)), LowRank)
