"""Pictures made from pictures: those of diffusers' img2img pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    ControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
)
from PIL import Image

from finetune.backbones import Backbone
from finetune.errors import ConfigError, DataError
from finetune.sampling import ControlSpec, Sampler
from finetune.sampling.schedulers import make_scheduler
from tests.sampling.test_control import branches as branches
from tests.sampling.test_control import picture
from tests.sampling.test_sampler import difference
from tests.tiny import Family

PROMPTS, SEEDS = ["a red cat", "a dog on snow"], [11, 5]


@pytest.fixture
def sampler(family: Family, loaded: dict[str, Backbone]) -> Sampler:
    return Sampler(loaded[family])


def settled(pipeline: Any, scheduler: str) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(scheduler, pipeline.scheduler)
    return pipeline


@pytest.mark.parametrize(
    ("scheduler", "strength"),
    [("dpm++", 0.6), ("euler-a", 0.5), ("ddim", 1.0), ("heun", 0.6), ("pndm", 0.45), ("ddpm", 0.3)],
)
def test_is_diffusers_img2img_pipeline(
    sampler: Sampler, tiny_folder: Path, scheduler: str, strength: float
) -> None:
    inits = [picture(1, 40, 32), picture(2, 40, 32)]
    settings: dict[str, Any] = {"steps": 7, "guidance": 4.0, "negative": "a hat", "scheduler": scheduler}
    ours = sampler(PROMPTS, init=inits, strength=strength, seed=SEEDS, **settings)
    pipeline = settled(AutoPipelineForImage2Image.from_pretrained(tiny_folder), scheduler)
    theirs = pipeline(
        PROMPTS,
        image=inits,
        strength=strength,
        negative_prompt=["a hat"] * 2,
        num_inference_steps=7,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
    ).images
    for sample, image in zip(ours, theirs, strict=True):
        assert sample.image.size == (40, 32)
        assert difference(sample.image, image) <= 1
    assert difference(ours[0].image, ours[1].image) > 1


def test_with_a_controlnet(
    sampler: Sampler, family: Family, branches: dict[str, Path], tiny_folder: Path
) -> None:
    sampler.add_controlnet(ControlSpec(branches[family], 0.7, start=0.3))
    control, init = picture(1), picture(2)
    settings: dict[str, Any] = {"steps": 8, "guidance": 4.0, "scheduler": "ddim", "seed": 3}
    (ours,) = sampler("a cat", init=init, strength=0.5, control_images=control, **settings)
    xl = family == "sdxl"
    kind: Any = StableDiffusionXLControlNetImg2ImgPipeline if xl else StableDiffusionControlNetImg2ImgPipeline
    branch = ControlNetModel.from_pretrained(branches[family] / "controlnet")
    options: dict[str, Any] = {} if xl else {"safety_checker": None}
    theirs = settled(kind.from_pretrained(tiny_folder, controlnet=branch, **options), "ddim")(
        "a cat",
        image=init,
        control_image=control,
        strength=0.5,
        num_inference_steps=8,
        guidance_scale=4.0,
        controlnet_conditioning_scale=0.7,
        control_guidance_start=0.3,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    assert difference(ours.image, theirs) <= 1
    (other,) = sampler("a cat", init=init, strength=0.5, control_images=picture(5), **settings)
    assert difference(ours.image, other.image) > 1


@pytest.fixture
def one(loaded: dict[str, Backbone]) -> Sampler:
    return Sampler(loaded["sd1"])


def test_a_picture_does_not_depend_on_its_batch(one: Sampler) -> None:
    together = one(PROMPTS, init=picture(1), steps=4, num=2, seed=SEEDS, scheduler="euler-a")
    (alone,) = one(PROMPTS[1], init=picture(1), steps=4, seed=6, scheduler="euler-a")
    assert difference(together[3].image, alone.image) <= 1 < difference(together[2].image, alone.image)


def test_the_strength_is_how_much_changes(one: Sampler) -> None:
    init = picture(1)
    far = [
        float(np.abs(np.asarray(s.image, float) - np.asarray(one_step, float)).mean())
        for one_step in [one("a cat", init=init, strength=0.01, steps=100)[0].image]
        for strength in (0.1, 0.4, 0.9)
        for s in one("a cat", init=init, strength=strength, steps=20)
    ]
    assert far == sorted(far) and far[0] < far[-1]


def test_size_and_what_is_told(one: Sampler, tmp_path: Path) -> None:
    picture(1, 66, 34).save(tmp_path / "sketch.png")
    (sample,) = one("a cat", init=tmp_path / "sketch.png", steps=5)
    assert sample.image.size == (64, 32)
    assert sample.notes == ("The initial picture was resized from 66x34 to 64x32 pixels.",)
    info = sample.info()
    assert info["strength"] == 0.6 and info["init"]["name"] == "sketch.png"
    (same,) = one("a cat", init=picture(1, 66, 34), steps=5)
    assert same.info()["init"] == {"sha256": info["init"]["sha256"]}
    (other,) = one("a cat", init=picture(2, 66, 34), steps=5)
    assert other.info()["init"] != same.info()["init"]
    saved = Image.open(sample.save(tmp_path / "cat.png"))
    assert "Denoising strength: 0.6," in saved.text["parameters"]  # type: ignore[attr-defined]
    assert "init" not in one("a cat", steps=1)[0].info()


def test_what_cannot_be_is_told(one: Sampler) -> None:
    with pytest.raises(ConfigError, match=r"`strength` has no effect[\s\S]*--init"):
        one("a cat", strength=0.5)
    with pytest.raises(ConfigError, match=r"leaves none of 3 steps[\s\S]*at least 4 steps"):
        one("a cat", init=picture(1), strength=0.3, steps=3)
    with pytest.raises(ConfigError, match=r"An initial picture is 64x32[\s\S]*--size 64x32"):
        one("a cat", init=picture(1, 64, 32), size=32)
    with pytest.raises(ConfigError, match="3 prompts were given but 2 initial pictures"):
        one(["a cat"] * 3, init=[picture(1), picture(2)])
    with pytest.raises(DataError, match="The initial picture cannot be read: No such file"):
        one("a cat", init="missing.png")
