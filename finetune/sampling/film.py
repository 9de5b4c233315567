"""The denoising, step by step: what the model takes each picture for on its way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from finetune.diffusion.schedule import clean_latents


@dataclass
class Film:
    """Keeps some of the steps of a batch, evenly spaced, with the first and the last.

    Attributes:
        frames: How many to keep, at least 2.
        total: Steps of all passes.
        kept: Steps, counted from 1, and the clean latents `[B, C, h, w]` predicted at them.
    """

    frames: int
    total: int
    kept: list[tuple[int, Tensor]] = field(default_factory=list)
    _done: int = 0

    def see(self, predicted: Tensor, given: Tensor, timestep: Tensor, scheduler: Any) -> None:
        """Looks at a step.

        Args:
            predicted: What the model predicted, `[B, C, h, w]`.
            given: What it was given, scaled as models expect it.
            timestep: Where; not a whole number with some spacings.
            scheduler: Knows the noise at each timestep, and what the model predicts.
        """
        self._done += 1
        count = min(self.frames, self.total)
        wanted = {round(1 + k * (self.total - 1) / max(count - 1, 1)) for k in range(count)}
        if self._done not in wanted:
            return
        alphas_bar: Tensor = scheduler.alphas_cumprod.to(given.device)
        low = timestep.floor().long().clamp(max=len(alphas_bar) - 1)
        part = timestep.float() - low
        share = torch.lerp(alphas_bar[low], alphas_bar[(low + 1).clamp(max=len(alphas_bar) - 1)], part)
        clean = clean_latents(predicted.float(), given.float(), share, scheduler.config.prediction_type)
        self.kept.append((self._done, clean))
