"""Jobs to pictures, in one pass over the sampling steps or, for high resolution, in two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from finetune.errors import FinetuneError
from finetune.sampling.canvas import Canvas
from finetune.sampling.denoise import Setup, Ticker, denoise
from finetune.sampling.film import Film
from finetune.sampling.grid import to_images
from finetune.sampling.plan import Job
from finetune.sampling.schedulers import scheduler_of, set_timesteps
from finetune.sampling.settings import SamplingSection


def passes(settings: SamplingSection) -> list[SamplingSection]:
    """The settings of each pass: one, or with `hires` a second at the larger size."""
    if settings.hires is None:
        return [settings]
    larger = {"size": settings.final_size, "strength": settings.hires_strength}
    return [settings, settings.model_copy(update=larger)]


def step_counts(settings: SamplingSection, own: Any) -> list[int]:
    """How many steps each pass takes, with the model's `own` scheduler."""
    cpu = torch.device("cpu")
    return [
        len(set_timesteps(scheduler_of(one, own), one.steps, one.strength, cpu)) for one in passes(settings)
    ]


@dataclass(frozen=True)
class Made:
    """A picture, and moments of its denoising: the steps, counted from 1, with what it was taken for then."""

    image: Image.Image
    frames: tuple[tuple[int, Image.Image], ...] = ()


def make_pictures(setup: Setup, jobs: Sequence[Job], tick: Ticker) -> list[Made]:
    """Makes the pictures of `jobs` together.

    With `hires`, what was sampled at the model's own size is enlarged, and sampled again from there with a
    strength (img2img): a model repeats its subject in a picture much larger than those it was trained on.

    Args:
        setup: What they share.
        jobs: What to make.
        tick: Called after every step.

    Raises:
        ConfigError: A control picture has another aspect ratio than the size.
        FinetuneError: A picture is not finite.
    """
    first, *larger = passes(setup.settings)
    counts = step_counts(setup.settings, setup.backbone.scheduler)
    film = Film(setup.frames, sum(counts)) if setup.frames else None
    latents = denoise(replace(setup, settings=first), jobs, tick, film=film)
    for settings in larger:
        latents = _again(replace(setup, settings=settings), jobs, tick, latents, film)
    images = _pictures(setup, latents, jobs)
    images = [_with_original(image, job.canvas) for image, job in zip(images, jobs, strict=True)]
    kept = film.kept if film else []
    moments = [[(step, one) for one in _pictures(setup, clean, jobs)] for step, clean in kept]
    rows = zip(*moments, strict=True) if moments else [()] * len(jobs)
    return [Made(image, tuple(row)) for image, row in zip(images, rows, strict=True)]


@torch.no_grad()
def _again(setup: Setup, jobs: Sequence[Job], tick: Ticker, latents: Tensor, film: Film | None) -> Tensor:
    size = setup.settings.size
    assert size is not None
    if setup.settings.hires_upscaler == "latent":
        width, height = (side // setup.backbone.latent_factor for side in size)
        enlarged = functional.interpolate(latents, (height, width), mode="bilinear")
        return denoise(setup, jobs, tick, enlarged, film)
    images = [image.resize(size, Image.Resampling.LANCZOS) for image in _pictures(setup, latents, jobs)]
    begun = [replace(job, canvas=Canvas(image)) for job, image in zip(jobs, images, strict=True)]
    return denoise(setup, begun, tick, film=film)


def _pictures(setup: Setup, latents: Tensor, jobs: Sequence[Job]) -> list[Image.Image]:
    """Decoded, refusing pictures that are not finite."""
    pixels = setup.backbone.decode(latents)
    for row, job in zip(pixels, jobs, strict=True):
        if not row.isfinite().all():
            what = f'The picture of "{job.prompt}" with seed {job.seed} is not finite'
            raise FinetuneError(
                f"{what} (computed in {setup.dtype}).\n"
                "  fix:   Sample with precision fp32; if that does not help, the weights are broken."
            )
    return to_images(pixels)


def _with_original(image: Image.Image, canvas: Canvas | None) -> Image.Image:
    """Puts the initial picture's pixels back where the mask is black: the VAE has changed them a little."""
    return Image.composite(image, canvas.image, canvas.mask) if canvas and canvas.mask else image
