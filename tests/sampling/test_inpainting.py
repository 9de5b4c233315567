"""Pictures of inpainting models: those of diffusers' inpainting pipelines with a mask over everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
)
from PIL import Image

from finetune.adapters import ControlNet
from finetune.backbones import Backbone
from finetune.config import ControlNetSection
from finetune.formats import write_controlnet
from finetune.sampling import ControlSpec, Sampler
from finetune.sampling.schedulers import make_scheduler
from tests.sampling.test_sampler import difference
from tests.tiny import Family, load_state

WIDTH, HEIGHT = SIZE = 40, 32
PAINT_ALL: dict[str, Any] = {
    "image": Image.new("RGB", SIZE, (128, 128, 128)),
    "mask_image": Image.new("L", SIZE, 255),
    "strength": 1.0,
    "height": HEIGHT,
    "width": WIDTH,
}


def certain(vae: Any) -> None:
    """Makes the posterior of all latents its mean: diffusers draws from it."""
    convolution = vae.quant_conv
    convolution.weight.data[4:] = 0
    convolution.bias.data[4:] = -60  # logarithm of the variance


@pytest.fixture
def plain(inpainting: Backbone, inpainting_models: dict[str, Path], family: Family) -> Any:
    """The same model in a pipeline of diffusers' own."""
    pipeline: Any = DiffusionPipeline.from_pretrained(inpainting_models[family])
    for vae in (pipeline.vae, inpainting.vae):
        certain(vae)
    return pipeline


def settled(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    return pipeline


def noise(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, HEIGHT // 4, WIDTH // 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_is_diffusers_inpainting_pipeline(inpainting: Backbone, plain: Any, guidance: float) -> None:
    prompts, seeds = ["a red cat", "a dog on snow"], [11, 5]
    settings: dict[str, Any] = {"steps": 4, "guidance": guidance, "scheduler": "ddim", "size": SIZE}
    ours = Sampler(inpainting)(prompts, seed=seeds, negative="a hat", **settings)
    theirs = settled(plain)(
        prompts,
        negative_prompt=["a hat"] * 2,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=torch.cat([noise(seed) for seed in seeds]),
        **PAINT_ALL,
    ).images
    for sample, image in zip(ours, theirs, strict=True):
        assert difference(sample.image, image) <= 1
    assert difference(ours[0].image, ours[1].image) > 1


def test_a_controlnet_of_the_ordinary_model_fits(
    inpainting: Backbone, plain: Any, backbone: Backbone, family: Family, tmp_path: Path
) -> None:
    adapter = ControlNet(backbone, ControlNetSection())
    draws = torch.Generator().manual_seed(7)
    load_state(
        adapter,
        {name: t + 0.2 * torch.randn(t.shape, generator=draws) for name, t in adapter.state().items()},
    )
    write_controlnet(tmp_path, adapter, {})
    control = Image.effect_noise(SIZE, 90).convert("RGB")
    sampler = Sampler(inpainting)
    settings: dict[str, Any] = {"seed": 3, "steps": 3, "guidance": 3.0, "scheduler": "ddim"}
    alone = sampler("a cat", size=SIZE, **settings)[0]
    sampler.add_controlnet(ControlSpec(tmp_path, scale=0.7))
    ours = sampler("a cat", control_images=control, **settings)[0]
    kind: Any = (
        StableDiffusionXLControlNetInpaintPipeline
        if family == "sdxl"
        else StableDiffusionControlNetInpaintPipeline
    )
    pipeline = settled(kind(**plain.components, controlnet=ControlNetModel.from_pretrained(tmp_path)))
    theirs = pipeline(
        "a cat",
        control_image=control,
        num_inference_steps=3,
        guidance_scale=3.0,
        controlnet_conditioning_scale=0.7,
        latents=noise(3),
        **PAINT_ALL,
    ).images[0]
    assert difference(ours.image, theirs) <= 1 < difference(ours.image, alone.image)
