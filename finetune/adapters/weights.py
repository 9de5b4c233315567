"""The learned updates as plain values, between the adapters and the file formats.

| class | change of the weight, times alpha/rank | paper |
|---|---|---|
| `LowRank` | `up · down` | LoRA, arXiv:2106.09685; magnitude: DoRA, arXiv:2402.09353 |
| `Hadamard` | `(w1_a · w1_b) ∘ (w2_a · w2_b)` | LoHa: FedPara, arXiv:2108.06098; LyCORIS, arXiv:2309.14859 |
| `Kronecker` | `w1 ⊗ w2` | LoKr: LyCORIS, arXiv:2309.14859 |

Convolutions are taken as matrices `[out, in · kh · kw]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from finetune.backbones.words import Word

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LowRank:
    """The update of one layer: `scale · up · down`, with `scale = alpha / rank`.

    With a magnitude m (DoRA) the layer's weight becomes `m · V / ‖V‖` with `V = W + scale · up · down`
    and the norm taken for each output (arXiv:2402.09353, equation 5).

    Attributes:
        down: `[rank, in]`, or `[rank, in, kh, kw]` for a convolution.
        up: `[out, rank]`, or `[out, rank, 1, 1]`.
        alpha: The update's strength, in the files' convention alpha/rank (rsLoRA is folded in).
        magnitude: `[out]`, or None for plain LoRA.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """The rank of the update."""
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        """What `up · down` is multiplied by."""
        return self.alpha / self.rank

    @property
    def shape(self) -> Shape:
        """The shape of the layer's weight."""
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def low_rank_size(self) -> int:
        """The rank of `low_rank()`."""
        return self.rank

    def low_rank(self) -> LowRank:
        """Itself."""
        return self

    def delta(self) -> Tensor:
        """The change of the weight, of the weight's shape, without the magnitude."""
        return (self.scale * self.up.flatten(1) @ self.down.flatten(1)).view(self.shape)


@dataclass(frozen=True)
class Hadamard:
    """LoHa: `scale · (w1_a · w1_b) ∘ (w2_a · w2_b)`, with `scale = alpha / rank`; of rank up to rank².

    Attributes:
        w1_a: `[out, rank]`, as is `w2_a`.
        w1_b: `[rank, in · kh · kw]`, as is `w2_b`.
        w2_a: See `w1_a`.
        w2_b: See `w1_b`.
        alpha: The update's strength.
        shape: The shape of the layer's weight.
    """

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    alpha: float
    shape: Shape

    @property
    def rank(self) -> int:
        """The rank of each of the two factors."""
        return int(self.w1_b.shape[0])

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank

    @property
    def low_rank_size(self) -> int:
        """The rank of `low_rank()`."""
        return min(self.rank**2, _full_rank(self.shape))

    def low_rank(self) -> LowRank:
        """The same change as a LoRA: column i·rank + j of `up` is `w1_a[:, i] ∘ w2_a[:, j]`, rows alike."""
        if self.low_rank_size < self.rank**2:
            return _whole(self.delta())
        up = torch.einsum("oi,oj->oij", self.w1_a, self.w2_a).flatten(1)
        down = torch.einsum("ix,jx->ijx", self.w1_b, self.w2_b).flatten(0, 1)
        return _as_low_rank(up, down, self.scale, self.shape)

    def delta(self) -> Tensor:
        """The change of the weight, of the weight's shape."""
        return (self.scale * (self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)).view(self.shape)


@dataclass(frozen=True)
class Kronecker:
    """LoKr: `scale · w1 ⊗ w2`, with `scale = alpha / rank`.

    Attributes:
        w1: `[a, b]`: one matrix, or two whose product it is.
        w2: `[out / a, in / b · kh · kw]`: one matrix, or two whose product it is. A whole one may have
            the dimensions of a convolution's kernel apart.
        alpha: The update's strength; equal to the rank where both are whole, since files then know
            of no other.
        shape: The shape of the layer's weight.
    """

    w1: tuple[Tensor, ...]
    w2: tuple[Tensor, ...]
    alpha: float
    shape: Shape

    @property
    def rank(self) -> int:
        """Of a factor in two parts; the larger side of `w2` where both are whole (diffusers' convention)."""
        for factor in (self.w2, self.w1):
            if len(factor) == 2:
                return int(factor[1].shape[0])
        return max(self.w2[0].shape[:2])

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank

    @property
    def low_rank_size(self) -> int:
        """The rank of `low_rank()`."""
        left = self.w1[0].shape[0], self.w1[-1].shape[1]
        right = self.w2[0].flatten(1) if len(self.w2) == 1 else self.w2[1]
        return min(min(left) * min(right.shape), _full_rank(self.shape))

    def low_rank(self) -> LowRank:
        """The same change as a LoRA, by `(P · Q) ⊗ (A · B) = (P ⊗ A) · (Q ⊗ B)`."""
        left, right = _factored(self.w1), _factored(self.w2)
        if left[1].shape[0] * right[1].shape[0] > self.low_rank_size:
            return _whole(self.delta())
        up, down = (torch.kron(one, other) for one, other in zip(left, right, strict=True))
        return _as_low_rank(up, down, self.scale, self.shape)

    def delta(self) -> Tensor:
        """The change of the weight, of the weight's shape."""
        left, right = (_product(factor) for factor in (self.w1, self.w2))
        return (self.scale * torch.kron(left, right)).view(self.shape)


LayerWeights = LowRank | Hadamard | Kronecker


def _product(factor: tuple[Tensor, ...]) -> Tensor:
    return factor[0].flatten(1) if len(factor) == 1 else factor[0] @ factor[1].flatten(1)


def _factored(factor: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """A matrix as a product through its smallest side."""
    matrix = _product(factor)
    if len(factor) == 2 and factor[1].shape[0] <= min(matrix.shape):
        return factor[0], factor[1].flatten(1)
    rows, columns = matrix.shape
    if rows <= columns:
        return torch.eye(rows), matrix
    return matrix, torch.eye(columns)


def _full_rank(shape: Shape) -> int:
    return min(shape[0], math.prod(shape[1:]))


def _whole(delta: Tensor) -> LowRank:
    up, down = _factored((delta,))
    return _as_low_rank(up, down, 1.0, tuple(delta.shape))


def _as_low_rank(up: Tensor, down: Tensor, scale: float, shape: Shape) -> LowRank:
    up = up.view(*up.shape, *[1] * (len(shape) - 2))
    return LowRank(down.view(-1, *shape[1:]).contiguous(), up.contiguous(), scale * down.shape[0])


@dataclass(frozen=True)
class LoRAWeights:
    """A whole LoRA, LoHa or LoKr, as a file holds it.

    Attributes:
        layers: By part ("unet", "text_encoder", "text_encoder_2") and the layer's name in that part, as
            diffusers and transformers name it in files (text layers begin with "text_model.").
        metadata: The text metadata of the file it was read from.
        words: New words that were learned with it.
    """

    layers: Mapping[tuple[str, str], LayerWeights]
    metadata: Mapping[str, str] = field(default_factory=dict)
    words: tuple[Word, ...] = ()

    def parts(self) -> dict[str, dict[str, LayerWeights]]:
        """The layers by part, then by layer name; parts without layers are left out."""
        grouped: dict[str, dict[str, LayerWeights]] = {}
        for (part, layer), weights in self.layers.items():
            grouped.setdefault(part, {})[layer] = weights
        return grouped

    def low_rank(self) -> dict[tuple[str, str], LowRank]:
        """Every layer's update as an equal LoRA."""
        return {key: layer.low_rank() for key, layer in self.layers.items()}
