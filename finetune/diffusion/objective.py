"""The noise-prediction objective: one number per row of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from finetune.diffusion.batch import Batch, Conditioning
from finetune.diffusion.random import normal, uniform

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(noisy latents `[B, C, h, w]`, timesteps `[B]`, conditioning) → prediction `[B, C, h, w]`."""


class Objective:
    """Denoising score matching on a discrete schedule (Ho et al. 2020, arXiv:2006.11239).

    Draws a timestep and noise for each row from its sample number (P1), noises the latents, and
    compares the model's prediction with what its own scheduler says it predicts: the noise
    ("epsilon") or the velocity (Salimans & Ho 2022, arXiv:2202.00512).

    On rows marked as preserved the target is the untrained model's own prediction instead, so that
    their prompts keep their meaning (learning without forgetting, Li & Hoiem 2016, arXiv:1606.09282).

    Args:
        scheduler: Any diffusers scheduler of the model; its betas and prediction type are used.
        seed: The run's seed.
        untrained: Predicts as the model did before training; needed only for preserved rows.

    Raises:
        ValueError: If the prediction type is neither "epsilon" nor "v_prediction".
    """

    def __init__(self, scheduler: object, seed: int, untrained: Predict | None = None) -> None:
        self.schedule = DDPMScheduler.from_config(scheduler.config)  # type: ignore[attr-defined]
        self.prediction_type: str = self.schedule.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"cannot train a model that predicts {self.prediction_type!r}")
        self.seed, self.untrained = seed, untrained

    def __call__(self, predict: Predict, batch: Batch) -> Tensor:
        """The loss of each row, times its weight: `[B]` in fp32."""
        latents = batch.latents.float()
        noise = normal(self.seed, batch.numbers, "noise", latents.shape[1:]).to(latents.device)
        timesteps = self.timesteps(batch.numbers).to(latents.device)
        noisy = self.schedule.add_noise(latents, noise, timesteps)

        prediction = predict(noisy, timesteps, batch.conditioning).float()

        target = self.target(latents, noise, timesteps)
        if batch.preserved is not None:
            target = self._with_preserved(target, noisy, timesteps, batch)
        return (prediction - target).square().flatten(1).mean(1) * batch.weight.float()

    def timesteps(self, numbers: tuple[int, ...]) -> Tensor:
        """A uniform timestep for each sample: `[B]` int64 in `[0, num_train_timesteps)`."""
        count = int(self.schedule.config.num_train_timesteps)
        return (uniform(self.seed, numbers, "timestep") * count).to(torch.int64)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should predict: the noise, or √ᾱ·noise − √(1−ᾱ)·latents."""
        if self.prediction_type == "epsilon":
            return noise
        velocity: Tensor = self.schedule.get_velocity(latents, noise, timesteps)
        return velocity

    @torch.no_grad()
    def _with_preserved(self, target: Tensor, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        """`target` with the preserved rows' replaced by the untrained model's prediction."""
        rows = batch.preserved
        if rows is None or not bool(rows.any()):
            return target
        if self.untrained is None:
            raise ValueError("preserved rows need the untrained model's prediction")
        target = target.clone()
        target[rows] = self.untrained(noisy[rows], timesteps[rows], batch.conditioning.rows(rows)).to(target)
        return target
