"""The denoising objective: one number per row of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from finetune.config import ObjectiveSection
from finetune.diffusion.batch import Batch, Conditioning, moved
from finetune.diffusion.losses import losses
from finetune.diffusion.noise import draw_noise, perturbed
from finetune.diffusion.schedule import training_schedule
from finetune.diffusion.timesteps import draw_timesteps
from finetune.diffusion.weighting import timestep_weights

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(noisy latents `[B, C, h, w]`, timesteps `[B]`, conditioning) → prediction `[B, C, h, w]`."""


class Objective:
    """Denoising score matching on a discrete schedule (Ho et al. 2020, arXiv:2006.11239).

    Draws a timestep and noise for each row from its sample number (P1), noises the latents, and
    compares the model's prediction with what its own scheduler says it predicts: the noise
    ("epsilon"), the velocity ("v_prediction", Salimans & Ho 2022, arXiv:2202.00512) or the clean
    latents ("sample").

    On rows marked as preserved the target is the untrained model's own prediction instead, so that
    their prompts keep their meaning (learning without forgetting, Li & Hoiem 2016, arXiv:1606.09282).

    Args:
        scheduler: Any diffusers scheduler of the model; its betas and prediction type are used.
        seed: The run's seed.
        section: Which noise, timesteps, distance and weighting.
        untrained: Predicts as the model did before training; needed only for preserved rows.

    Raises:
        ConfigError: If the settings do not fit what the model predicts.
    """

    def __init__(
        self,
        scheduler: object,
        seed: int,
        section: ObjectiveSection | None = None,
        untrained: Predict | None = None,
    ) -> None:
        self.section = section or ObjectiveSection()
        self.schedule = training_schedule(scheduler, self.section)
        self.prediction_type = str(self.schedule.config.prediction_type)
        self.seed, self.untrained = seed, untrained

    def __call__(self, predict: Predict, batch: Batch) -> Tensor:
        """The loss of each row, times its weight: `[B]` in fp32."""
        settings, numbers = self.section, batch.numbers
        latents = batch.latents.float()
        timesteps = moved(self.timesteps(numbers), latents.device)
        noise = moved(draw_noise(self.seed, numbers, latents.shape[1:], settings), latents.device)
        added = perturbed(noise, self.seed, numbers, settings.input_perturbation)
        noisy = self.schedule.add_noise(latents, added, timesteps)

        prediction = predict(noisy, timesteps, batch.conditioning).float()

        target, mask = self.target(latents, noise, timesteps), batch.mask
        if batch.preserved is not None:
            target, mask = self._with_preserved(target, noisy, timesteps, batch)
        each = losses(prediction - target, timesteps, self.schedule.alphas_cumprod, mask, settings)
        each = each * timestep_weights(timesteps, self.schedule, self.prediction_type, settings)
        return each * batch.weight.float()

    def timesteps(self, numbers: tuple[int, ...]) -> Tensor:
        """A timestep for each sample: `[B]` int64 in `[0, num_train_timesteps)`."""
        count = int(self.schedule.config.num_train_timesteps)
        return draw_timesteps(self.seed, numbers, count, self.section.timesteps, self.section.logit_normal)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should predict: the noise, √ᾱ·noise − √(1−ᾱ)·latents, or the latents."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        velocity: Tensor = self.schedule.get_velocity(latents, noise, timesteps)
        return velocity

    @torch.no_grad()
    def _with_preserved(
        self, target: Tensor, noisy: Tensor, timesteps: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor | None]:
        """Target and mask; in preserved rows the untrained model's prediction, counting everywhere."""
        rows = batch.preserved
        if rows is None or not bool(rows.any()):
            return target, batch.mask
        if self.untrained is None:
            raise ValueError("preserved rows need the untrained model's prediction")
        which = moved(rows.nonzero().flatten(), noisy.device)
        before = self.untrained(noisy[which], timesteps[which], batch.conditioning.rows(which))
        target = target.index_copy(0, which, before.to(target))
        return target, None if batch.mask is None else batch.mask.index_fill(0, which, 1.0)
