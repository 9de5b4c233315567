"""Pictures in two passes: those of two diffusers pipelines, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image
from PIL import Image
from torch.nn import functional

from finetune.backbones import Backbone
from finetune.errors import ConfigError
from finetune.sampling import Sampler
from finetune.sampling.png import parameters
from finetune.sampling.schedulers import make_scheduler
from tests.sampling.test_control import picture
from tests.sampling.test_sampler import difference
from tests.tiny import Family


def settled(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    return pipeline


@pytest.mark.parametrize("upscaler", ["lanczos", "latent"])
def test_is_text_to_image_and_then_img2img(
    loaded: dict[str, Backbone], family: Family, tiny_folder: Path, upscaler: str
) -> None:
    ours = Sampler(loaded[family])(
        ["a cat", "a dog"],
        seed=[3, 8],
        size=(40, 32),
        steps=6,
        guidance=4.0,
        negative="ugly",
        scheduler="ddim",
        hires=1.5,
        hires_strength=0.7,
        hires_upscaler=upscaler,
    )
    first = settled(AutoPipelineForText2Image.from_pretrained(tiny_folder))
    second = settled(AutoPipelineForImage2Image.from_pretrained(tiny_folder))
    settings: dict[str, Any] = {"negative_prompt": "ugly", "num_inference_steps": 6, "guidance_scale": 4.0}
    for sample in ours:
        small = first(
            sample.prompt,
            width=40,
            height=32,
            generator=torch.Generator().manual_seed(sample.seed),
            output_type="latent" if upscaler == "latent" else "pil",
            **settings,
        ).images
        if upscaler == "lanczos":  # 60 pixels are not a multiple of 8
            begun = small[0].resize((64, 48), Image.Resampling.LANCZOS)
        else:
            begun = functional.interpolate(small, (12, 16), mode="bilinear")
        generator = torch.Generator().manual_seed(sample.seed)
        large = second(sample.prompt, image=begun, strength=0.7, generator=generator, **settings).images[0]
        assert sample.image.size == sample.settings.final_size == (64, 48)
        assert difference(sample.image, large) <= 1


@pytest.fixture
def one(loaded: dict[str, Backbone]) -> Sampler:
    return Sampler(loaded["sd1"])


def test_steps_and_records(one: Sampler) -> None:
    told: list[tuple[int, int]] = []
    (sample,) = one("a cat", steps=5, hires=2.0, guidance=1, progress=lambda *n: told.append(n))
    assert told == [(n, 7) for n in range(1, 8)]  # five, and half of five
    info = sample.info()
    assert {key: info[key] for key in info if key.startswith(("hires", "size"))} == {
        "size": [32, 32],
        "hires": 2.0,
        "hires_strength": 0.5,
        "hires_upscaler": "lanczos",
    }
    a1111 = "Size: 32x32, Model: sd1, Denoising strength: 0.5, Hires upscale: 2, Hires upscaler: Lanczos,"
    assert a1111 in parameters(info)
    assert not any(key.startswith("hires") for key in one("a cat", steps=1)[0].info())


def test_large_pictures_go_in_small_batches(one: Sampler) -> None:
    rows: list[int] = []
    hook = one.backbone.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    settings: dict[str, Any] = {"steps": 1, "guidance": 1, "scheduler": "ddim", "hires_strength": 1.0}
    one("a cat", num=3, size=128, hires=2.0, **settings)
    hook.remove()
    assert rows == [3] * 2  # the size that is sampled last counts: 64 x 64 latents
    hook = one.backbone.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    one("a cat", num=2, size=(128, 136), hires=3.0, **settings)
    hook.remove()
    assert rows[2:] == [1] * 4


def test_what_cannot_be_is_told(one: Sampler) -> None:
    with pytest.raises(ConfigError, match=r"hires_strength has no effect without sampling.hires"):
        one("a cat", hires_strength=0.7)
    with pytest.raises(ConfigError, match="hires_strength"):
        one("a cat", hires=2.0, hires_strength=0.1, steps=5)
    with pytest.raises(ConfigError, match="there is an initial picture"):
        one("a cat", hires=2.0, init=picture(1))
    with pytest.raises(ConfigError, match="`hires` cannot be 1"):
        one("a cat", hires=1)
