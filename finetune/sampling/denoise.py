"""One batch of pictures through the sampling steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.backbones import Backbone
from finetune.backbones.predict import unconditional
from finetune.sampling.between import mixed
from finetune.sampling.control import Control, control_tensor
from finetune.sampling.film import Film
from finetune.sampling.guidance import Guided
from finetune.sampling.placement import autocast_to
from finetune.sampling.plan import Job
from finetune.sampling.schedulers import scheduler_of, set_timesteps
from finetune.sampling.settings import SamplingSection
from finetune.sampling.spans import shares
from finetune.sampling.start import Drawn, begin
from finetune.sampling.texts import Texts

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Setup:
    """What all pictures of a call share.

    Attributes:
        backbone: The model, its UNet and VAE on `device`.
        controls: The ControlNets to use, on `device`.
        texts: Embeddings of all prompts and of the negative prompt.
        settings: With everything filled in.
        device: Where to compute.
        dtype: Precision of the matrix products; latents and scheduler stay fp32.
        frames: How many moments of the denoising are kept.
        at: Called before each step with its part of all steps.
    """

    backbone: Backbone
    controls: Sequence[Control]
    texts: Texts
    settings: SamplingSection
    device: torch.device
    dtype: torch.dtype
    frames: int = 0
    at: Callable[[tuple[float, float]], None] = lambda share: None


class Ticker:
    """Counts sampling steps over all batches.

    Args:
        progress: Called with the number of steps done and `total`.
        total: The number of steps of all batches.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.done, self.total = progress, 0, total

    def __call__(self) -> None:
        """Counts one step."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


@torch.no_grad()
def denoise(
    setup: Setup, jobs: Sequence[Job], tick: Ticker, begun: Tensor | None = None, film: Film | None = None
) -> Tensor:
    """Takes the pictures of `jobs` together through all steps.

    Each has a generator of its own, for the latents of its initial picture, the first noise and the noise
    that some samplers add, so nothing depends on the other jobs.

    Args:
        setup: What they share.
        jobs: What to make.
        tick: Called after every step.
        begun: Latents `[B, C, h, w]` to begin with, in place of initial pictures.
        film: Sees every step.

    Returns:
        Scaled latents `[B, C, h, w]`, fp32.

    Raises:
        ConfigError: A control picture has another aspect ratio than the size.
    """
    backbone, settings = setup.backbone, setup.settings
    assert settings.size is not None
    scheduler = scheduler_of(settings, backbone.scheduler)
    timesteps = set_timesteps(scheduler, settings.steps, settings.strength, setup.device)
    drawn = Drawn([_generator(job.seed) for job in jobs], setup.device, _others(jobs))
    width, height = (side // backbone.latent_factor for side in settings.size)
    canvases = [job.canvas for job in jobs if job.canvas is not None]
    # As diffusers has it, inpainting with a strength of 1 begins with noise alone, img2img does not.
    repaints_all = bool(canvases) and canvases[0].mask is not None and settings.strength == 1
    first = None if repaints_all else timesteps[:1]
    shape = backbone.latent_channels, height, width
    start = begin(backbone, canvases, drawn, scheduler, first, shape, begun)
    model, latents = _guided(setup, jobs, settings.size, start.appended), start.latents
    # Those that add noise draw it; the others have no such argument.
    adds_noise = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": drawn.generators} if adds_noise else {}
    with autocast_to(setup.dtype, setup.device):
        for index, (timestep, share) in enumerate(zip(timesteps, shares(len(timesteps)), strict=True)):
            setup.at(share)
            given = scheduler.scale_model_input(latents, timestep)
            predicted = model(given, timestep, share)
            if film:
                film.see(predicted, given, timestep, scheduler)
            latents = scheduler.step(predicted, timestep, latents, **extra, return_dict=False)[0]
            if start.kept:
                latents = start.kept.put_back(latents, scheduler, timesteps[index + 1 : index + 2])
            tick()
    return latents


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _others(jobs: Sequence[Job]) -> list[tuple[torch.Generator, float] | None]:
    """For each picture between two seeds the other one's generator, and how far it is to there."""
    return [(_generator(t.seed), t.mix) if (t := job.toward) and t.seed != job.seed else None for job in jobs]


def _guided(setup: Setup, jobs: Sequence[Job], size: tuple[int, int], appended: Tensor | None) -> Guided:
    backbone, settings = setup.backbone, setup.settings
    side = size[1], size[0]
    time_ids = backbone.time_ids(side, (0, 0), side)
    prompts = setup.texts.conditioning([job.prompt for job in jobs], time_ids)
    if any(job.toward for job in jobs):
        ends = setup.texts.conditioning(
            [job.toward.prompt if job.toward else job.prompt for job in jobs], time_ids
        )
        prompts = mixed(prompts, ends, [job.toward.mix if job.toward else 0.0 for job in jobs])
    negatives = setup.texts.conditioning([settings.negative] * len(jobs), time_ids)
    if not settings.negative:
        negatives = unconditional(backbone, negatives)
    columns = zip(*(job.controls for job in jobs), strict=True)
    controls = [
        (control, control_tensor(column, size, control.spec.preprocess))
        for control, column in zip(setup.controls, columns, strict=True)
    ]
    return Guided(
        backbone,
        prompts,
        negatives if settings.guidance > 1 else None,
        settings.guidance,
        settings.rescale,
        controls,
        appended,
        setup.dtype,
    )
