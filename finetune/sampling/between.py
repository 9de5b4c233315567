"""Pictures between two: embeddings of prompts and first noise are interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from finetune.diffusion.batch import Conditioning


@dataclass(frozen=True)
class Toward:
    """The other end of a strip, for a picture within it.

    Attributes:
        prompt: The other prompt.
        seed: The other seed.
        mix: How far it is to there, between 0 and 1.
    """

    prompt: str
    seed: int
    mix: float


def mixed(one: Conditioning, other: Conditioning, mixes: Sequence[float]) -> Conditioning:
    """Embeddings on the straight line between two, row by row; 0 is `one`, 1 the other."""
    values = {}
    for name in (field.name for field in fields(Conditioning)):
        first, second = getattr(one, name), getattr(other, name)
        if first is not None and first.is_floating_point():
            share = torch.tensor(mixes, device=first.device).view(-1, *[1] * (first.dim() - 1))
            values[name] = torch.lerp(first, second, share.to(first))
    return replace(one, **values)


def slerp(one: Tensor, other: Tensor, mix: float) -> Tensor:
    """Noise on the arc between two, which keeps its power (Shoemake 1985, "Animating rotation").

    Args:
        one: Of any shape, for `mix` 0.
        other: Of the same shape, for `mix` 1.
        mix: Between 0 and 1.
    """
    cosine = (one * other).sum() / (one.norm() * other.norm())
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle.sin().abs() < 1e-4:  # on one line, where there is no arc
        return torch.lerp(one, other, mix)
    return (((1 - mix) * angle).sin() * one + (mix * angle).sin() * other) / angle.sin()
