"""LoKr: a Kronecker product (LyCORIS, arXiv:2309.14859)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoKrConfig
from torch import Tensor

from finetune.adapters.algorithms.lora import LowRank, as_full_rank, as_low_rank
from finetune.adapters.matrices import Shape, factored, full_rank, product, tucker
from finetune.adapters.updates import FactorsUpdate
from finetune.adapters.weights import LayerWeights, Row, Strength
from finetune.config import LoRASection


@dataclass(frozen=True)
class Kronecker(LayerWeights):
    """`scale · w1 ⊗ w2`, with `scale = alpha / rank`.

    Attributes:
        w1: `[a, b]`: one matrix, or two whose product it is.
        w2: `[out / a, in / b · kh · kw]`: one matrix, or two whose product it is. A whole one may keep
            the kernel's dimensions of a convolution.
        alpha: The update's strength; equal to the rank if both are whole, since files then have no other.
        shape: The shape of the layer's weight.
    """

    algorithm = "lokr"
    suffixes = {  # noqa: RUF012 - a ClassVar of the base
        f".lokr_{role}": f"lokr_{role}" for role in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
    }
    leading = frozenset({"lokr_w1", "lokr_w1_a"})

    w1: tuple[Tensor, ...]
    w2: tuple[Tensor, ...]
    alpha: float
    shape: Shape

    @classmethod
    def from_file(cls, row: Row, shape: Shape, strength: Strength) -> Kronecker:
        """As `LayerWeights.from_file`."""
        w1, w2 = _factor(row, "lokr_w1"), _factor(row, "lokr_w2")
        sizes = [(factor[0].shape[0], factor[-1].flatten(1).shape[1]) for factor in (w1, w2)]
        fits = sizes[0][0] * sizes[1][0] == shape[0] and sizes[0][1] * sizes[1][1] == math.prod(shape[1:])
        if not fits or any(len(f) == 2 and f[0].shape[1] != f[1].shape[0] for f in (w1, w2)):
            shapes = ", ".join(str(tuple(t.shape)) for t in (*w1, *w2))
            raise ValueError(f"has shapes {shapes} for a layer of {shape}")
        update = cls(w1, w2, 1.0, shape)
        if "alpha" in row:
            # LyCORIS scales by alpha/rank only if one of the factors has a rank.
            scale = 1.0 if len(w1) == len(w2) == 1 else float(row["alpha"]) / update.rank
        else:
            scale = strength.scale()
        if len(w1) == len(w2) == 1:
            return cls((w1[0] * scale,), w2, float(update.rank), shape)
        return cls(w1, w2, scale * update.rank, shape)

    @property
    def rank(self) -> int:
        """That of a factor in two parts; if both are whole, the larger side of `w2` (as in diffusers)."""
        for factor in (self.w2, self.w1):
            if len(factor) == 2:
                return int(factor[1].shape[0])
        return max(self.w2[0].shape[:2])

    @property
    def low_rank_size(self) -> int:
        """The rank of `low_rank()`."""
        left = self.w1[0].shape[0], self.w1[-1].shape[1]
        right = self.w2[0].flatten(1) if len(self.w2) == 1 else self.w2[1]
        return min(min(left) * min(right.shape), full_rank(self.shape))

    def low_rank(self) -> LowRank:
        """The same change as a LoRA, by `(P · Q) ⊗ (A · B) = (P ⊗ A) · (Q ⊗ B)`."""
        left, right = factored(self.w1), factored(self.w2)
        if left[1].shape[0] * right[1].shape[0] > self.low_rank_size:
            return as_full_rank(self.delta())
        up, down = (torch.kron(one, other) for one, other in zip(left, right, strict=True))
        return as_low_rank(up, down, self.scale, self.shape)

    def delta(self) -> Tensor:
        """The change of the weight, of the weight's shape."""
        return (self.scale * torch.kron(product(self.w1), product(self.w2))).view(self.shape)

    def factors(self) -> dict[str, Tensor]:
        """As `LayerWeights.factors`."""
        named: dict[str, Tensor] = {}
        for kind, factor in (("lokr_w1", self.w1), ("lokr_w2", self.w2)):
            keys = (kind,) if len(factor) == 1 else (f"{kind}_a", f"{kind}_b")
            named |= zip(keys, factor, strict=True)
        return named

    def lycoris(self, section: LoRASection) -> dict[str, str]:
        """As `LayerWeights.lycoris`."""
        return {**super().lycoris(section), "factor": str(section.factor or -1)}

    @classmethod
    def peft_settings(cls, rank: int, layers: Iterable[LayerWeights], section: LoRASection) -> dict[str, Any]:
        """As `LayerWeights.peft_settings`."""
        return {**super().peft_settings(rank, layers, section), "decompose_factor": section.factor or -1}


class KroneckerUpdate(FactorsUpdate):
    """LoKr."""

    config = LoKrConfig
    values = Kronecker
    zero = ("lokr_w1",)

    @classmethod
    def chosen(cls, section: LoRASection) -> dict[str, Any]:
        """As `Update.chosen`."""
        return {} if section.factor is None else {"decompose_factor": section.factor}

    def weights(self, values: Mapping[str, Tensor], alpha: float) -> Kronecker:
        """The factors and the strength, which is multiplied into `w1` if both factors are whole."""
        w1 = (values["lokr_w1"],)
        if "lokr_w2" not in values:
            return Kronecker(w1, (values["lokr_w2_a"], values["lokr_w2_b"]), alpha, self.shape)
        w2 = values["lokr_w2"]
        return Kronecker((w1[0] * (alpha / self._rank),), (w2,), float(max(w2.shape[:2])), self.shape)


def _factor(row: Row, name: str) -> tuple[Tensor, ...]:
    if name in row:
        return (row[name],)
    return tucker(row, name, f"{name[:-2]}t{name[-1]}")
