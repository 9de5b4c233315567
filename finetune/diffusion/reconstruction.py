"""The autoencoder's objective and its batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from finetune.config.pretrain import AutoencoderSection
from finetune.diffusion.batch import moved
from finetune.diffusion.random import normal


@dataclass(frozen=True)
class PixelRows:
    """Pictures to reconstruct.

    Attributes:
        numbers: The global sample number of each row.
        names: What the rows are called in messages.
        pixels: `[B, 3, S, S]` in [-1, 1].
    """

    numbers: tuple[int, ...]
    names: tuple[str, ...]
    pixels: Tensor

    @property
    def learned(self) -> tuple[bool, ...]:
        """All rows show something new."""
        return (True,) * len(self.numbers)

    def to(self, device: torch.device | str) -> PixelRows:
        """The same rows on `device`."""
        return replace(self, pixels=moved(self.pixels, device))


class Reconstruction:
    """Squared error, a little absolute error, and a slight pull toward the standard normal.

    The loss of Kingma & Welling 2013 (arXiv:1312.6114) with the small KL weight of Rombach et al.
    2022 (arXiv:2112.10752), without their perceptual and adversarial terms, which would need other
    pretrained networks.

    Args:
        seed: Seed of the posterior's noise.
        shape: Of the latents, `(C, s, s)`.
        section: The weights of the terms.
    """

    def __init__(self, seed: int, shape: tuple[int, int, int], section: AutoencoderSection) -> None:
        self.seed, self.shape, self.section = seed, shape, section

    def __call__(self, model: Any, batch: PixelRows) -> Tensor:
        """The loss of each row, `[B]` in fp32."""
        noise = normal(self.seed, batch.numbers, "latents", self.shape)
        reconstruction, kl = model(batch.pixels, moved(noise, batch.pixels.device))
        error = (reconstruction.float() - batch.pixels).flatten(1)
        absolute, pull = self.section.l1_weight * error.abs().mean(1), self.section.kl_weight * kl
        loss: Tensor = error.square().mean(1) + absolute + pull
        return loss
