"""A model that is asked about pictures: how well it predicts them, and what its features of them are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from finetune.backbones import Backbone
from finetune.config import ObjectiveSection
from finetune.diffusion.batch import Conditioning
from finetune.diffusion.objective import Objective
from finetune.diffusion.random import normal

LAYER = 1
"""The UNet's up block whose output are the features: the second, as DIFT's (arXiv:2306.03881)."""

FEATURE_TIMESTEP = 0.261
"""At which share of the schedule the picture is noised for its features, as DIFT's t = 261 of 1000."""


@dataclass
class Judge:
    """A model, frozen, with noise that is a function of a seed alone (P1).

    Every picture gets the same noise at the same timestep, so that what is said of a picture depends on no
    other, and two prompts, or two models, differ in nothing else.

    Attributes:
        backbone: The model; on whatever device and in whatever precision it is.
        seed: Of the noise.
        at_once: How many rows go through the UNet together; changes the rounding of float sums only.
        inside: Opened while the model is asked, as what is trained must be switched off if the base model is
            meant.
    """

    backbone: Backbone
    seed: int = 0
    at_once: int = 32
    inside: Callable[[], AbstractContextManager[object]] = nullcontext

    def __post_init__(self) -> None:
        """Reads the model's own schedule."""
        self._objective = Objective(self.backbone.scheduler, self.seed, ObjectiveSection())

    @property
    def timesteps(self) -> int:
        """How many the schedule has."""
        return int(self._objective.schedule.config.num_train_timesteps)

    def noise(self, timestep: int, draws: int, shape: Sequence[int]) -> Tensor:
        """The noise of a timestep: `[draws, C, h, w]`, the same whatever else is asked."""
        return normal(self.seed, range(draws), f"evaluation at {timestep}", shape)

    @torch.no_grad()
    def errors(self, latents: Tensor, prompts: Sequence[str], timesteps: Sequence[int], draws: int) -> Tensor:
        """The training loss of each picture with its prompt, for every timestep and draw of the noise.

        It is the mean squared error of what the model predicts (noise or velocity), as trained with
        (arXiv:2006.11239, equation 14): up to weights of the timesteps a bound of the likelihood.

        Args:
            latents: `[B, C, h, w]` scaled latents.
            prompts: `B` of them.
            timesteps: Below `self.timesteps`.
            draws: Of the noise at each.

        Returns:
            `[B, timesteps, draws]` fp32 on the CPU.
        """
        found = self.predictions(latents, prompts, timesteps, draws)
        return (found - self.targets(latents, timesteps, draws)).square().mean((3, 4, 5))

    def targets(self, latents: Tensor, timesteps: Sequence[int], draws: int) -> Tensor:
        """What the model should predict: `[B, timesteps, draws, C, h, w]` fp32; arguments as `errors`."""
        clean = latents.float().cpu()
        levels = []
        for timestep in timesteps:
            at, noises = torch.full((len(clean),), timestep), self.noise(timestep, draws, clean.shape[1:])
            levels.append(
                torch.stack([self._objective.target(clean, n.expand_as(clean), at) for n in noises], 1)
            )
        return torch.stack(levels, 1)

    @torch.no_grad()
    def predictions(
        self, latents: Tensor, prompts: Sequence[str], timesteps: Sequence[int], draws: int
    ) -> Tensor:
        """What the model predicts: `[B, timesteps, draws, C, h, w]` fp32 on the CPU; asked as `errors`."""
        times = torch.tensor(timesteps)
        noises = torch.stack([self.noise(timestep, draws, latents.shape[1:]) for timestep in timesteps])
        sizes = (len(latents), len(timesteps), draws)
        rows = torch.cartesian_prod(*map(torch.arange, sizes)).view(-1, 3)
        with self.inside():
            encoded = self._encode(prompts)
            found = [
                self._predict(latents[picture], times[level], noises[level, draw], encoded.rows(picture))
                for picture, level, draw in (part.unbind(1) for part in rows.split(self.at_once))
            ]
        return torch.cat(found).view(*sizes, *latents.shape[1:])

    @torch.no_grad()
    def features(self, latents: Tensor, layer: int = LAYER, share: float = FEATURE_TIMESTEP) -> Tensor:
        """What the UNet's decoder makes of slightly noised pictures, without a prompt.

        Features of a diffusion model correspond between pictures: the same part of the same kind of thing has
        similar ones (DIFT, Tang et al. 2023, arXiv:2306.03881).

        Args:
            latents: `[B, C, h, w]` scaled latents.
            layer: Which up block.
            share: Of the schedule, how much noise.

        Returns:
            `[B, D, h', w']` fp32 on the CPU.
        """
        timestep = round(share * self.timesteps)
        seen: list[Tensor] = []

        def keep(module: Any, given: Any, output: Tensor) -> None:
            seen.append(output.float().cpu())

        noise = self.noise(timestep, 1, latents.shape[1:])
        handle = self.backbone.unet.up_blocks[layer].register_forward_hook(keep)
        try:
            with self.inside():
                encoded = self._encode([""])
                for part in latents.split(self.at_once):
                    first = torch.zeros(len(part), dtype=torch.long)
                    self._predict(part, torch.full_like(first, timestep), noise[first], encoded.rows(first))
        finally:
            handle.remove()
        return torch.cat(seen)

    def _encode(self, prompts: Sequence[str]) -> Conditioning:
        """Each prompt is encoded once, however often it occurs."""
        different = list(dict.fromkeys(prompts))
        tokens = self.backbone.conditioning(different)
        assert tokens.tokens is not None
        hidden, pooled = self.backbone.encode_text(tokens.tokens)
        encoded = replace(tokens, tokens=None, hidden=hidden, pooled=pooled).to("cpu")
        places = {prompt: place for place, prompt in enumerate(different)}
        return encoded.rows(torch.tensor([places[prompt] for prompt in prompts]))

    def _predict(self, latents: Tensor, timesteps: Tensor, noise: Tensor, rows: Conditioning) -> Tensor:
        """Predictions for a few rows, each with a timestep and noise of its own."""
        device = self.backbone.device
        noisy = self._objective.schedule.add_noise(latents.float().cpu(), noise, timesteps)
        predicted = self.backbone.predict(noisy.to(device), timesteps.to(device), rows.to(device))
        return predicted.float().cpu()
