"""From noise to pictures: one batch through the diffusers pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from finetune.backbones import Backbone
from finetune.errors import FinetuneError
from finetune.sampling.control import Control, pipeline_arguments
from finetune.sampling.grid import to_images
from finetune.sampling.placement import autocast_to
from finetune.sampling.schedulers import make_scheduler
from finetune.sampling.settings import SamplingSection
from finetune.sampling.texts import Texts

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """One picture to make.

    Attributes:
        prompt: What it shows.
        seed: Seed of its own noise.
        controls: Its control picture for each ControlNet, RGB.
    """

    prompt: str
    seed: int
    controls: tuple[Image.Image, ...] = ()


class Ticker:
    """Counts UNet steps over all batches; diffusers calls it after each.

    Args:
        progress: Called with the number of steps done and `total`.
        total: The number of steps of all batches.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.done, self.total = progress, 0, total

    def __call__(self, _pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Counts one step and changes nothing."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
        return tensors


@torch.no_grad()
def denoise(
    backbone: Backbone,
    jobs: Sequence[Job],
    texts: Texts,
    settings: SamplingSection,
    device: torch.device,
    dtype: torch.dtype,
    tick: Ticker,
    controls: Sequence[Control] = (),
) -> list[Image.Image]:
    """Makes the pictures of `jobs` in one pipeline call.

    Args:
        backbone: The model, its UNet and VAE on `device`.
        jobs: What to make; each has a generator of its own, for the first noise and for the noise
            that DDPM and Euler ancestral add, so nothing depends on the other jobs.
        texts: Embeddings of all prompts and of the negative prompt.
        settings: With `size` filled in.
        device: Where to compute.
        dtype: Precision of the matrix products; latents and scheduler stay fp32.
        tick: Called after every step.
        controls: The ControlNets to use, on `device`.

    Raises:
        ConfigError: A control picture has another aspect ratio than the size.
        FinetuneError: A picture is not finite.
    """
    assert settings.size is not None
    width, height = settings.size
    pipeline = _without_text_encoders(backbone.pipeline([control.branch for control in controls]))
    pipeline.scheduler = make_scheduler(settings.scheduler, backbone.scheduler)
    embeddings = texts.arguments([job.prompt for job in jobs])
    if settings.guidance > 1:
        negative = texts.arguments([settings.negative] * len(jobs))
        # As SDXL was trained: zeros, not the empty text's embedding, stand for no negative prompt.
        zeros = not settings.negative and pipeline.config.get("force_zeros_for_empty_prompt")
        embeddings |= {f"negative_{k}": torch.zeros_like(v) if zeros else v for k, v in negative.items()}
    control = pipeline_arguments(controls, [job.controls for job in jobs], settings.size)
    generators = [torch.Generator().manual_seed(job.seed) for job in jobs]
    shape = (backbone.latent_channels, height // backbone.latent_factor, width // backbone.latent_factor)
    noise = torch.cat([torch.randn(1, *shape, generator=generator) for generator in generators])
    with autocast_to(dtype, device, backbone.unet):
        latents = pipeline(
            **embeddings,
            **control,
            height=height,
            width=width,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=generators,
            latents=noise,
            output_type="latent",
            callback_on_step_end=tick,
        ).images
    return _pictures(backbone.decode(latents), jobs, dtype)


def _without_text_encoders(pipeline: Any) -> Any:
    """The pipeline without text encoders: the prompts are encoded already.

    A pipeline takes its device from any one of its parts, and the text encoders may have stayed
    on the CPU.
    """
    for name in pipeline.components:
        if name.startswith("text_encoder"):
            setattr(pipeline, name, None)
    return pipeline


def _pictures(pixels: Tensor, jobs: Sequence[Job], dtype: torch.dtype) -> list[Image.Image]:
    """As `to_images`, refusing pictures that are not finite."""
    for row, job in zip(pixels, jobs, strict=True):
        if not row.isfinite().all():
            raise FinetuneError(
                f'The picture of "{job.prompt}" with seed {job.seed} is not finite (computed in {dtype}).\n'
                "  fix:   Sample with precision fp32; if that does not help, the weights are broken."
            )
    return to_images(pixels)
