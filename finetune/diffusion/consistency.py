"""Latent consistency distillation: a student learns to skip the steps of a sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from finetune.config.objective import ConsistencySection
from finetune.diffusion.batch import Batch, Conditioning, moved
from finetune.diffusion.losses import losses
from finetune.diffusion.noise import draw_noise
from finetune.diffusion.objective import Predict
from finetune.diffusion.random import uniform
from finetune.diffusion.schedule import clean_latents, training_schedule

SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0
"""Of the boundary condition, as in the paper and in `diffusers.LCMScheduler`, which samples the result."""


class ConsistencyObjective:
    """Makes a model's predictions agree along the path that its own sampler takes.

    Luo et al. 2023, arXiv:2310.04378, algorithm 1, with the student as its own target, as for LCM-LoRA
    (arXiv:2311.05556). The latents are noised to one of the solver's timesteps. The teacher, the model
    without what is trained, takes one guided DDIM step from there. What the student makes of the point
    before that step must be what it makes of the point after it; and since it returns a picture without noise
    as it is, all points of a path come to stand for the picture at its end.

    The paper draws the guidance scale at random and tells the UNet; a LoRA has no input to be told by, and
    would learn a mean of all. So there is one scale.

    Args:
        scheduler: Any diffusers scheduler of the model; its betas and prediction type are used.
        seed: The run's seed.
        section: The solver's steps, the guidance scale, the distance.
        teacher: Predicts as the model did before training.
        empty: One row, what the UNet is told where there is no prompt.

    Raises:
        ConfigError: If the settings do not fit what the model predicts.
    """

    def __init__(
        self, scheduler: object, seed: int, section: ConsistencySection, teacher: Predict, empty: Conditioning
    ) -> None:
        self.section, self.seed, self.teacher, self.empty = section, seed, teacher, empty
        self.schedule = training_schedule(scheduler, section)
        self.prediction_type = str(self.schedule.config.prediction_type)

    def __call__(self, predict: Predict, batch: Batch) -> Tensor:
        """The loss of each row, times its weight: `[B]` in fp32."""
        latents = batch.latents.float()
        later, earlier = (moved(t, latents.device) for t in self.timesteps(batch.numbers))
        noise = draw_noise(self.seed, batch.numbers, latents.shape[1:], self.section)
        noisy = self.schedule.add_noise(latents, moved(noise, latents.device), later)
        with torch.no_grad():
            before = self.teacher_step(noisy, later, earlier, batch.conditioning)
            target = self.consistent(predict, before, earlier, batch.conditioning)
        made = self.consistent(predict, noisy, later, batch.conditioning)
        each = losses(made - target, later, self.schedule.alphas_cumprod, batch.mask, self.section)
        return each * batch.weight.float()

    def timesteps(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """For each sample a timestep of the solver and the one that it steps to: `[B]` int64 each."""
        count, steps = int(self.schedule.config.num_train_timesteps), self.section.solver_steps
        stride = count // steps
        drawn = (uniform(self.seed, numbers, "timestep") * steps).long().clamp(max=steps - 1)
        later = (drawn + 1) * stride - 1
        return later, (later - stride).clamp(min=0)

    def teacher_step(
        self, noisy: Tensor, later: Tensor, earlier: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """One guided step of DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12 with no fresh noise)."""
        nothing = self.empty.to(noisy.device).rows(torch.zeros_like(later))
        nothing = replace(nothing, time_ids=conditioning.time_ids)
        both = Conditioning.stack([conditioning, nothing])
        told, untold = self.teacher(noisy.repeat(2, 1, 1, 1), later.repeat(2), both).float().chunk(2)
        clean = self.clean(untold + self.section.guidance * (told - untold), noisy, later)
        now, then = self._share(later), self._share(earlier)
        noise = (noisy - now.sqrt() * clean) / (1 - now).sqrt()
        return then.sqrt() * clean + (1 - then).sqrt() * noise

    def consistent(
        self, predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """The student's picture: c_skip(t)·x_t + c_out(t)·x̂₀, which at t = 0 is x_t itself."""
        clean = self.clean(predict(noisy, timesteps, conditioning).float(), noisy, timesteps)
        scaled = TIMESTEP_SCALING * timesteps.float()[:, None, None, None]
        skip = SIGMA_DATA**2 / (scaled.square() + SIGMA_DATA**2)
        return skip * noisy + scaled / (scaled.square() + SIGMA_DATA**2).sqrt() * clean

    def clean(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latents x̂₀ that a prediction implies: `[B, C, h, w]`."""
        return clean_latents(prediction, noisy, self._share(timesteps), self.prediction_type)

    def _share(self, timesteps: Tensor) -> Tensor:
        """ᾱ, `[B, 1, 1, 1]`."""
        alphas_bar: Tensor = self.schedule.alphas_cumprod.to(timesteps.device)
        return alphas_bar[timesteps][:, None, None, None]
