"""LoHa: two products of narrow matrices, multiplied elementwise.

FedPara, arXiv:2108.06098; LyCORIS, arXiv:2309.14859.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from peft import LoHaConfig
from torch import Tensor

from finetune.adapters.algorithms.lora import LowRank, as_full_rank, as_low_rank
from finetune.adapters.matrices import Shape, full_rank, tucker
from finetune.adapters.updates import FactorsUpdate
from finetune.adapters.weights import LayerWeights, Row, Strength


@dataclass(frozen=True)
class Hadamard(LayerWeights):
    """`scale · (w1_a · w1_b) ∘ (w2_a · w2_b)`, with `scale = alpha / rank`; of rank up to rank².

    Attributes:
        w1_a: `[out, rank]`, as is `w2_a`.
        w1_b: `[rank, in · kh · kw]`, as is `w2_b`.
        w2_a: See `w1_a`.
        w2_b: See `w1_b`.
        alpha: The update's strength.
        shape: The shape of the layer's weight.
    """

    algorithm = "loha"
    suffixes = {  # noqa: RUF012 - a ClassVar of the base
        f".hada_{role}": f"hada_{role}" for role in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
    }
    leading = frozenset({"hada_w1_a"})

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    alpha: float
    shape: Shape

    @classmethod
    def from_file(cls, row: Row, shape: Shape, strength: Strength) -> Hadamard:
        """As `LayerWeights.from_file`."""
        pairs = [tucker(row, "hada_w1", "hada_t1"), tucker(row, "hada_w2", "hada_t2")]
        (w1_a, w1_b), (w2_a, w2_b) = pairs
        expected = shape[0], math.prod(shape[1:])
        if any((a.shape[0], b.shape[1]) != expected or a.shape[1] != b.shape[0] for a, b in pairs):
            shapes = ", ".join(str(tuple(t.shape)) for pair in pairs for t in pair)
            raise ValueError(f"has shapes {shapes} for a layer of {shape}")
        rank = w1_b.shape[0]
        alpha = float(row["alpha"]) if "alpha" in row else strength.scale() * rank
        return cls(w1_a, w1_b, w2_a, w2_b, alpha, shape)

    @property
    def rank(self) -> int:
        """The rank of each of the two factors."""
        return int(self.w1_b.shape[0])

    @property
    def low_rank_size(self) -> int:
        """The rank of `low_rank()`."""
        return min(self.rank**2, full_rank(self.shape))

    def low_rank(self) -> LowRank:
        """As a LoRA: column i·rank + j of `up` is `w1_a[:, i] ∘ w2_a[:, j]`; likewise rows of `down`."""
        if self.low_rank_size < self.rank**2:
            return as_full_rank(self.delta())
        up = torch.einsum("oi,oj->oij", self.w1_a, self.w2_a).flatten(1)
        down = torch.einsum("ix,jx->ijx", self.w1_b, self.w2_b).flatten(0, 1)
        return as_low_rank(up, down, self.scale, self.shape)

    def delta(self) -> Tensor:
        """The change of the weight, of the weight's shape."""
        return (self.scale * (self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)).view(self.shape)

    def factors(self) -> dict[str, Tensor]:
        """As `LayerWeights.factors`."""
        return {f"hada_{kind}": getattr(self, kind) for kind in ("w1_a", "w1_b", "w2_a", "w2_b")}


class HadamardUpdate(FactorsUpdate):
    """LoHa."""

    config = LoHaConfig
    values = Hadamard
    zero = ("hada_w2_b",)

    def weights(self, values: Mapping[str, Tensor], alpha: float) -> Hadamard:
        """The four factors and the strength."""
        named = {kind.removeprefix("hada_"): value for kind, value in values.items()}
        return Hadamard(**named, alpha=alpha, shape=self.shape)
