"""Every way to sample, with and without a ControlNet and a LoRA, on every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
)
from PIL import Image

from finetune.backbones import Backbone, load_backbone
from finetune.config import ModelSection
from finetune.sampling import ControlSpec, Sample, Sampler
from finetune.sampling.schedulers import make_scheduler
from tests.sampling.test_control import branches as branches
from tests.sampling.test_control import picture
from tests.sampling.test_loras import peft_lora
from tests.sampling.test_sampler import difference
from tests.tiny import FAMILIES, Family

MASK = Image.new("L", (32, 32), 0)
MASK.paste(255, (8, 8, 28, 28))
MODES: dict[str, dict[str, Any]] = {
    "noise": {},
    "img2img": {"init": picture(3), "strength": 0.7},
    "inpainting": {"init": picture(3), "mask": MASK},
    "outpainting": {"init": picture(3).crop((0, 0, 24, 32)), "outpaint": {"right": 8}},
    "hires": {"hires": 1.5},
    "between": {"between": 3, "to_seed": 9},  # the one in the middle
}
SIZES = {"hires": (48, 48)}
CHANGED = {"inpainting": MASK, "outpainting": Image.new("L", (32, 32), 0)}
CHANGED["outpainting"].paste(255, (24, 0, 32, 32))
KINDS = ("ordinary", "inpainting")
PIPELINES: dict[str, tuple[Any, Any]] = {
    "noise": (StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline),
    "img2img": (StableDiffusionControlNetImg2ImgPipeline, StableDiffusionXLControlNetImg2ImgPipeline),
    "inpainting": (StableDiffusionControlNetInpaintPipeline, StableDiffusionXLControlNetInpaintPipeline),
}


@pytest.fixture(scope="module")
def loras(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each family a LoRA that changes much."""
    folder = tmp_path_factory.mktemp("loras")
    return {family: peft_lora(tiny_models[family], folder / family, 1) for family in FAMILIES}


@pytest.fixture(scope="module")
def samplers(
    tiny_models: dict[str, Path],
    inpainting_models: dict[str, Path],
    branches: dict[str, Path],
    loras: dict[str, Path],
) -> Any:
    """By kind of UNet, family, ControlNet and LoRA, made once each."""
    made: dict[tuple[str, Family, bool, bool], Sampler] = {}

    def sampler(kind: str, family: Family, controlled: bool, learned: bool) -> Sampler:
        key = kind, family, controlled, learned
        if key not in made:
            folders = tiny_models if kind == "ordinary" else inpainting_models
            backbone: Backbone = load_backbone(ModelSection(name=str(folders[family])))
            made[key] = Sampler(backbone)
            if learned:
                made[key].add_lora(loras[family])
            if controlled:
                made[key].add_controlnet(ControlSpec(branches[family], 0.8))
        return made[key]

    return sampler


def middle(samples: list[Sample]) -> Sample:
    return samples[len(samples) // 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_all_parts_act_together(samplers: Any, family: Family, mode: str, kind: str) -> None:
    """Each of ControlNet and LoRA changes the picture, alone and beside the other, and it is made again."""
    settings: dict[str, Any] = {"seed": 5, "steps": 2, "guidance": 3.0, "scheduler": "dpm++", **MODES[mode]}
    images = {}
    for controlled in (False, True):
        for learned in (False, True):
            sampler = samplers(kind, family, controlled, learned)
            given = {"control_images": picture(4)} if controlled else {}
            first = middle(sampler("a red cat", **given, **settings))
            assert first.image.size == SIZES.get(mode, (32, 32))
            assert len(first.info().get("controlnets", [])) == controlled
            assert len(first.loras) == learned
            images[controlled, learned] = first.image
    again = middle(sampler("a red cat", control_images=picture(4), **settings))
    assert difference(images[True, True], again.image) == 0
    pairs = [(a, b) for a in images for b in images if a < b]
    assert all(difference(images[a], images[b]) > 1 for a, b in pairs)
    if mode in CHANGED:
        kept = np.asarray(CHANGED[mode]) == 0
        values = [np.asarray(image)[kept] for image in images.values()]
        assert all((value == values[0]).all() for value in values)


def pipeline_of(mode: str, family: Family, model: Path, branch: Path) -> Any:
    """Diffusers' own pipeline with a ControlNet for a mode."""
    kind: Any = PIPELINES[mode][family == "sdxl"]
    options: dict[str, Any] = {} if family == "sdxl" else {"safety_checker": None}
    net = ControlNetModel.from_pretrained(branch / "controlnet")
    pipeline = kind.from_pretrained(model, controlnet=net, **options)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    return pipeline


@pytest.mark.parametrize("mode", PIPELINES)
def test_all_parts_together_are_diffusers_pipeline(
    samplers: Any,
    family: Family,
    mode: str,
    tiny_models: dict[str, Path],
    branches: dict[str, Path],
    loras: dict[str, Path],
) -> None:
    """A ControlNet and a LoRA at once, from noise, from a picture and under a mask."""
    (ours,) = samplers("ordinary", family, True, True)(
        "a red cat",
        control_images=picture(4),
        seed=5,
        steps=4,
        guidance=3.0,
        scheduler="ddim",
        **MODES[mode],
    )
    pipeline = pipeline_of(mode, family, tiny_models[family], branches[family])
    file = loras[family]
    pipeline.load_lora_weights(
        file if file.is_dir() else file.parent, weight_name=None if file.is_dir() else file.name
    )
    given: dict[str, Any] = {"image": picture(4)}
    if mode != "noise":
        given = {
            "image": picture(3),
            "control_image": picture(4),
            "strength": MODES[mode].get("strength", 1.0),
        }
    if mode == "inpainting":
        given |= {"mask_image": MASK, "height": 32, "width": 32}
    theirs = pipeline(
        "a red cat",
        num_inference_steps=4,
        guidance_scale=3.0,
        controlnet_conditioning_scale=0.8,
        generator=torch.Generator().manual_seed(5),
        **given,
    ).images[0]
    apart = np.abs(np.asarray(ours.image).astype(int) - np.asarray(theirs).astype(int)).max(axis=2)
    where = np.asarray(MASK) > 0 if mode == "inpainting" else np.ones((32, 32), dtype=bool)
    assert apart[where].max() <= 1
