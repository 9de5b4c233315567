"""Turns the tensors that a file has for one layer into the layer's update."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from finetune.adapters.algorithms import weight_classes
from finetune.adapters.algorithms.decomposed import Decomposed, is_by_input
from finetune.adapters.algorithms.lora import LowRank
from finetune.adapters.matrices import Shape
from finetune.adapters.weights import LayerWeights, Role, Row, Strength

VECTORS: Mapping[str, Role] = {".diff_b": "bias", ".w_norm": "norm weight", ".b_norm": "norm bias"}
"""Role of a change of a bias, or of a norm (LyCORIS's `train_norm`), by the end of its key in a file."""


def may_be_update(roles: Collection[Role]) -> bool:
    """Whether the tensors of one layer could be an update of any algorithm."""
    vectors = set(VECTORS.values())
    return not vectors.isdisjoint(roles) or any(not k.leading.isdisjoint(roles) for k in weight_classes())


def vector_changes(row: Row, shape: Shape, biased: bool) -> tuple[dict[str, Tensor], dict[Role, Tensor]]:
    """The changes of a layer's bias and of a norm's weight, in fp32, and the other tensors of the layer.

    Args:
        row: Its tensors by role.
        shape: The shape of the layer's weight; of one dimension for a norm.
        biased: Whether the layer has a bias.

    Returns:
        The changes by the parameter's name, and what is left.

    Raises:
        ValueError: If one is not finite, does not fit, or there is no such parameter; the message says so.
    """
    names = {"bias": "bias", "norm bias": "bias", "norm weight": "weight"}
    if norm := len(shape) == 1:
        names["diff"] = "weight"
        if wrong := row.keys() - names.keys() - {"alpha"}:
            raise ValueError(f"is a norm, which can have no {min(wrong)}")
    found: dict[str, Tensor] = {}
    for role in row.keys() & names.keys():
        change = row[role].float()
        if not biased and names[role] == "bias":
            raise ValueError("has a change of a bias, and the layer has none")
        if not norm and role == "norm weight":
            raise ValueError("has a change of a norm, and is none")
        if change.numel() != shape[0]:
            raise ValueError(f"{role} has the shape {tuple(change.shape)} for {shape[0]} channels")
        if not torch.isfinite(change).all():
            raise ValueError("holds NaN or infinite values")
        found[names[role]] = change.flatten()
    rest = {role: tensor for role, tensor in row.items() if role not in names}
    return found, {} if found and rest.keys() == {"alpha"} else rest


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
    scale = row.get("dora_scale")
    if scale is not None and (kind is not LowRank or is_by_input(scale)):  # PEFT has no layers for these
        inner = kind.from_file({r: t for r, t in row.items() if r != "dora_scale"}, shape, strength)
        return Decomposed.around(inner, scale)
    return kind.from_file(row, shape, strength)


def _kind(roles: Collection[Role]) -> type[LayerWeights]:
    """The algorithm other than LoRA that uses one of `roles`; LoRA if none does."""
    others = (kind for kind in weight_classes() if kind is not LowRank)
    return next((kind for kind in others if not set(kind.suffixes.values()).isdisjoint(roles)), LowRank)
