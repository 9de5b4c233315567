"""From the tensors that a file has for one layer to the update that they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune.adapters import peft_inside
from finetune.adapters.weights import Hadamard, Kronecker, LayerWeights, LowRank
from finetune.formats.keys import Role

LEADING = {"down", "hada_w1_a", "lokr_w1", "lokr_w1_a"}  # each kind of update has one of them
FLAT = {"alpha", "magnitude", "dora_scale"}  # all others are matrices at least
Row = Mapping[Role, Tensor]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Strength:
    """What PEFT's settings in a file say of the strength of one layer's update.

    Attributes:
        layer: Its name, for the patterns in the settings.
        config: The settings of its part; may be empty.
    """

    layer: str
    config: Mapping[str, Any]

    def _value(self, key: str, pattern_key: str) -> float | None:
        if key not in self.config:
            return None
        patterns = self.config.get(pattern_key) or {}
        return float(peft_inside.by_pattern(patterns, self.layer, self.config[key]))

    def alpha(self, rank: int) -> float:
        """Of a LoRA; without settings, diffusers takes alpha = rank."""
        alpha = self._value("lora_alpha", "alpha_pattern")
        if alpha is None:
            return float(rank)
        return alpha * math.sqrt(rank) if self.config.get("use_rslora") else alpha

    def scale(self) -> float:
        """Of a LoHa or LoKr: alpha/rank, 1 without settings."""
        alpha, rank = self._value("alpha", "alpha_pattern"), self._value("r", "rank_pattern")
        return 1.0 if alpha is None or rank is None else alpha / rank


def layer_weights(row: Row, shape: Shape, strength: Strength) -> LayerWeights:
    """The update of one layer, in fp32.

    Args:
        row: Its tensors by role.
        shape: Of the layer's weight.
        strength: Counts where there is no alpha among the tensors.

    Raises:
        ValueError: If tensors are missing, not finite or of the wrong shape; the message says so.
    """
    row = {role: tensor.float() for role, tensor in row.items()}  # fp8 can do nothing else
    if empty := [role for role, tensor in row.items() if tensor.numel() == 0]:
        raise ValueError(f"{empty[0]} is empty")
    if flat := [role for role, tensor in row.items() if tensor.ndim < 2 and role not in FLAT]:
        raise ValueError(f"{flat[0]} has the shape {tuple(row[flat[0]].shape)}")
    if not all(torch.isfinite(tensor).all() for tensor in row.values()):
        raise ValueError("holds NaN or infinite values")
    if "alpha" in row and row["alpha"].numel() != 1:
        raise ValueError(f"has {row['alpha'].numel()} alphas")
    for sign, make in (("hada_", _hadamard), ("lokr_", _kronecker)):
        if any(role.startswith(sign) for role in row):
            if "dora_scale" in row:
                raise ValueError("has DoRA magnitudes, which are supported for LoRA only")
            return make(row, shape, strength)
    return _low_rank(row, shape, strength)


def _low_rank(row: Row, shape: Shape, strength: Strength) -> LowRank:
    if missing := {"down", "up"} - row.keys():
        raise ValueError(f"lora_{missing.pop()} is missing")
    down, up = row["down"], row["up"]
    if "mid" in row:
        # A convolution taken apart twice (LoCon with Tucker): up(1x1) · mid(kxk) · down(1x1).
        down = _joined("mnkl,ni->mikl", row["mid"], down.flatten(1))
    down, up = _as_layer(down, len(shape)), _as_layer(up, len(shape))
    rank = down.shape[0]
    expected = (rank, *shape[1:]), (shape[0], rank, *[1] * (len(shape) - 2))
    if (tuple(down.shape), tuple(up.shape)) != expected:
        raise ValueError(f"has shapes {tuple(down.shape)} and {tuple(up.shape)} for a layer of {shape}")
    alpha = float(row["alpha"]) if "alpha" in row else strength.alpha(rank)
    return LowRank(down, up, alpha, _magnitude(row, shape))


def _as_layer(tensor: Tensor, dimensions: int) -> Tensor:
    # A linear layer and a 1x1 convolution are the same thing, and files have one for the other.
    if tensor.ndim == 4 and dimensions == 2 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor[:, :, None, None] if tensor.ndim == 2 and dimensions == 4 else tensor


def _magnitude(row: Row, shape: Shape) -> Tensor | None:
    tensor = row.get("magnitude", row.get("dora_scale"))
    if tensor is None:
        return None
    if "dora_scale" in row and tensor.ndim > 1 and tensor.shape[0] == 1 < tensor.numel():
        raise ValueError("has DoRA magnitudes of inputs (wd_on_output=False), which are not supported")
    if tensor.numel() != shape[0]:
        raise ValueError(f"has {tensor.numel()} DoRA magnitudes for {shape[0]} outputs")
    return tensor.flatten()


def _hadamard(row: Row, shape: Shape, strength: Strength) -> Hadamard:
    pairs = []
    for half, core in (("hada_w1", "hada_t1"), ("hada_w2", "hada_t2")):
        if missing := [role for role in (f"{half}_a", f"{half}_b") if role not in row]:
            raise ValueError(f"{missing[0]} is missing")
        pairs.append(_tucker(row[f"{half}_a"], row[f"{half}_b"], row.get(core)))
    (w1_a, w1_b), (w2_a, w2_b) = pairs
    expected = shape[0], math.prod(shape[1:])
    if any((a.shape[0], b.shape[1]) != expected or a.shape[1] != b.shape[0] for a, b in pairs):
        shapes = ", ".join(str(tuple(t.shape)) for pair in pairs for t in pair)
        raise ValueError(f"has shapes {shapes} for a layer of {shape}")
    rank = w1_b.shape[0]
    alpha = float(row["alpha"]) if "alpha" in row else strength.scale() * rank
    return Hadamard(w1_a, w1_b, w2_a, w2_b, alpha, shape)


def _kronecker(row: Row, shape: Shape, strength: Strength) -> Kronecker:
    w1, w2 = _factor(row, "lokr_w1"), _factor(row, "lokr_w2")
    sizes = [(factor[0].shape[0], factor[-1].flatten(1).shape[1]) for factor in (w1, w2)]
    fits = sizes[0][0] * sizes[1][0] == shape[0] and sizes[0][1] * sizes[1][1] == math.prod(shape[1:])
    if not fits or any(len(f) == 2 and f[0].shape[1] != f[1].shape[0] for f in (w1, w2)):
        shapes = ", ".join(str(tuple(t.shape)) for t in (*w1, *w2))
        raise ValueError(f"has shapes {shapes} for a layer of {shape}")
    update = Kronecker(w1, w2, 1.0, shape)
    if "alpha" in row:
        # LyCORIS scales by alpha/rank only where a rank is to be seen.
        scale = 1.0 if len(w1) == len(w2) == 1 else float(row["alpha"]) / update.rank
    else:
        scale = strength.scale()
    if len(w1) == len(w2) == 1:
        return Kronecker((w1[0] * scale,), w2, float(update.rank), shape)
    return Kronecker(w1, w2, scale * update.rank, shape)


def _factor(row: Row, name: str) -> tuple[Tensor, ...]:
    if name in row:
        return (row[name],)
    if missing := [role for role in (f"{name}_a", f"{name}_b") if role not in row]:
        raise ValueError(f"{missing[0]} is missing")
    return _tucker(row[f"{name}_a"], row[f"{name}_b"], row.get(f"{name[:-2]}t{name[-1]}"))


def _tucker(a: Tensor, b: Tensor, core: Tensor | None) -> tuple[Tensor, Tensor]:
    """A product as `[out, rank]` and `[rank, in · kh · kw]`.

    With a core `[rank, rank, kh, kw]` ("tucker", FedPara's proposition 3) `a` is `[rank, out]` and the
    core belongs to `b`.
    """
    if core is None:
        return a, b.flatten(1)
    return a.T.contiguous(), _joined("ijkl,jn->inkl", core, b).flatten(1)


def _joined(rule: str, core: Tensor, matrix: Tensor) -> Tensor:
    """A core and a matrix multiplied."""
    try:
        return torch.einsum(rule, core, matrix)
    except RuntimeError:
        shapes = f"{tuple(core.shape)} and {tuple(matrix.shape)}"
        raise ValueError(f"has a core and a matrix that do not fit: {shapes}") from None
