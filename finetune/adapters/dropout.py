"""Dropout whose mask depends on the sample alone (promise P1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finetune.diffusion.random import draw_seed


@dataclass
class Samples:
    """Which samples the current forward pass holds; shared by all dropout layers of an adapter."""

    numbers: tuple[int, ...] = ()
    seed: int = 0


class SampleDropout(nn.Module):
    """Dropout (Srivastava et al. 2014); each row's mask is drawn from (seed, sample number, layer).

    The mask is drawn on the input's device, where large ones are cheap; CPU and GPU therefore draw
    different masks, as they round differently too.

    Args:
        p: Share of values set to zero, in [0, 1); the others are scaled by 1/(1-p).
        layer: The layer's name, which separates the draws of different layers.
        samples: Set by the adapter before each forward pass.
    """

    def __init__(self, p: float, layer: str, samples: Samples) -> None:
        super().__init__()
        self.p, self.layer, self.samples = p, layer, samples

    def forward(self, x: Tensor) -> Tensor:
        """Drops values of `[B, ...]`, in training only.

        Raises:
            RuntimeError: If `set_samples` was not called for this batch.
        """
        if not self.training:
            return x
        numbers = self.samples.numbers
        if len(numbers) != len(x):
            raise RuntimeError(f"set_samples named {len(numbers)} samples, but the batch has {len(x)}")
        keep = torch.empty_like(x)
        for row, number in zip(keep, numbers, strict=True):
            seed = draw_seed(self.samples.seed, number, f"dropout/{self.layer}")
            row.bernoulli_(1 - self.p, generator=torch.Generator(x.device).manual_seed(seed))
        return x * keep / (1 - self.p)
