"""Sampling with ControlNets: the same pictures as plain diffusers', and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from PIL import Image

from finetune.adapters import ControlNet
from finetune.backbones import Backbone, load_backbone
from finetune.config import ControlNetSection, ModelSection
from finetune.errors import ConfigError, DataError, WeightsError
from finetune.formats import write_controlnet
from finetune.sampling import ControlSpec, Sampler
from finetune.sampling.pictures import size_of
from finetune.sampling.schedulers import make_scheduler
from tests.tiny import FAMILIES, Family, load_state


def picture(seed: int, width: int = 32, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def branches(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each family a run folder with a ControlNet that says something."""
    folder = tmp_path_factory.mktemp("branches")
    for family in FAMILIES:
        adapter = ControlNet(load_backbone(ModelSection(name=str(tiny_models[family]))), ControlNetSection())
        draws = torch.Generator().manual_seed(7)
        load_state(
            adapter,
            {name: t + 0.2 * torch.randn(t.shape, generator=draws) for name, t in adapter.state().items()},
        )
        (folder / family / "controlnet").mkdir(parents=True)
        write_controlnet(folder / family / "controlnet", adapter, {})
    return {family: folder / family for family in FAMILIES}


@pytest.fixture
def sampler(family: Family, loaded: dict[str, Backbone]) -> Sampler:
    return Sampler(loaded[family])


def pixels(image: Image.Image) -> Any:
    return np.asarray(image).astype(int)


def plain_pipeline(family: Family, model: Path, controlnet: Any) -> Any:
    kind: Any = StableDiffusionXLControlNetPipeline if family == "sdxl" else StableDiffusionControlNetPipeline
    options: dict[str, Any] = {} if family == "sdxl" else {"safety_checker": None}
    pipeline = kind.from_pretrained(model, controlnet=controlnet, **options)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    return pipeline


def test_pictures_are_those_of_plain_diffusers(
    family: Family, sampler: Sampler, branches: dict[str, Path], tiny_folder: Path
) -> None:
    sampler.add_controlnet(ControlSpec(branches[family], scale=0.7, start=0.0, end=0.6))
    controls = [picture(1), picture(2)]
    ours = sampler(
        ["a cat", "a dog"],
        control_images=controls,
        steps=4,
        guidance=3.0,
        scheduler="ddim",
        negative="ugly",
        seed=[5, 6],
    )
    plain = ControlNetModel.from_pretrained(branches[family] / "controlnet")
    pipeline = plain_pipeline(family, tiny_folder, plain)
    for sample, control in zip(ours, controls, strict=True):
        theirs = pipeline(
            sample.prompt,
            image=control,
            negative_prompt="ugly",
            num_inference_steps=4,
            guidance_scale=3.0,
            controlnet_conditioning_scale=0.7,
            control_guidance_end=0.6,
            generator=torch.Generator().manual_seed(sample.seed),
        ).images[0]
        assert abs(pixels(sample.image) - pixels(theirs)).max() <= 1
    # And each picture follows its own control picture.
    swapped = sampler(
        ["a cat"],
        control_images=controls[1],
        steps=4,
        guidance=3.0,
        scheduler="ddim",
        negative="ugly",
        seed=5,
    )[0]
    assert abs(pixels(swapped.image) - pixels(ours[0].image)).max() > 1
    assert ours[0].info()["controlnets"] == [
        {"name": family, "scale": 0.7, "start": 0.0, "end": 0.6, "preprocess": "none"}
    ]


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_branch_in_training_beside_a_unet_in_bf16(
    backbone: Backbone, family: Family, branches: dict[str, Path], own: torch.dtype
) -> None:
    """As in previews: near the picture in fp32, which follows the control picture."""
    sampler = Sampler(backbone)
    without = sampler("a cat", steps=4, seed=5, size=32)[0]
    sampler.add_controlnet(branches[family])
    exact = sampler("a cat", control_images=picture(1), steps=4, seed=5)[0]
    backbone.unet.bfloat16()
    sampler.controls[0].branch.type(own)
    near = sampler("a cat", control_images=picture(1), steps=4, seed=5)[0]
    assert near.precision == "bf16"
    apart = [abs(pixels(exact.image) - pixels(other.image)).mean() for other in (near, without)]
    assert 0 < 4 * apart[0] < apart[1]


def test_several_together(
    sampler: Sampler, family: Family, branches: dict[str, Path], tiny_folder: Path
) -> None:
    specs = [ControlSpec(branches[family], 0.5), ControlSpec(branches[family], 1.0, start=0.3)]
    for spec in specs:
        sampler.add_controlnet(spec)
    first, second = picture(1), picture(2)
    ours = sampler("a cat", control_images=[first, second], steps=3, guidance=1, scheduler="ddim", seed=4)[0]
    nets = [ControlNetModel.from_pretrained(branches[family] / "controlnet") for _ in specs]
    theirs = plain_pipeline(family, tiny_folder, nets)(
        "a cat",
        image=[first, second],
        num_inference_steps=3,
        guidance_scale=1.0,
        controlnet_conditioning_scale=[0.5, 1.0],
        control_guidance_start=[0.0, 0.3],
        control_guidance_end=[1.0, 1.0],
        generator=torch.Generator().manual_seed(4),
    ).images[0]
    assert abs(pixels(ours.image) - pixels(theirs)).max() <= 1


def test_size_and_metadata(
    sampler: Sampler, family: Family, branches: dict[str, Path], tmp_path: Path
) -> None:
    sampler.add_controlnet(branches[family])
    sample = sampler("a cat", control_images=picture(1, 64, 32), steps=1, guidance=1)[0]
    assert sample.image.size == (64, 32)
    saved = Image.open(sample.save(tmp_path / "cat.png"))
    text = saved.text  # type: ignore[attr-defined]
    assert json.loads(text["finetune"])["samples"][0]["controlnets"][0]["name"] == family
    told = f'ControlNet 0: "Module: none, Model: {family}, Weight: 1, Guidance Start: 0, Guidance End: 1"'
    assert told in text["parameters"]


def test_size_of() -> None:
    assert size_of(Image.new("RGB", (512, 768)), 512) == (512, 768)
    assert size_of(Image.new("RGB", (4000, 3000)), 512) == (680, 512)
    assert size_of(Image.new("RGB", (30, 30)), 512) == (32, 32)


def test_scale_zero_is_the_model_alone(sampler: Sampler, family: Family, branches: dict[str, Path]) -> None:
    alone = sampler("a cat", steps=2, guidance=1)[0]
    sampler.add_controlnet(ControlSpec(branches[family], scale=0.0))
    held = sampler("a cat", control_images=picture(1), steps=2, guidance=1)[0]
    assert np.array_equal(pixels(alone.image), pixels(held.image))


def test_control_pictures_are_made_as_in_training(
    loaded: dict[str, Backbone], branches: dict[str, Path]
) -> None:
    from finetune.data.control import control_pixels

    given = picture(3)
    made = Image.fromarray(control_pixels(np.asarray(given), "edges"))
    images = []
    for spec, control in ((ControlSpec(branches["sd1"], preprocess="edges"), given), (branches["sd1"], made)):
        sampler = Sampler(loaded["sd1"])
        sampler.add_controlnet(spec)
        images.append(sampler("a cat", control_images=control, steps=2, guidance=1)[0].image)
    assert np.array_equal(pixels(images[0]), pixels(images[1]))


def test_pictures_and_controlnets_must_match(loaded: dict[str, Backbone], branches: dict[str, Path]) -> None:
    sampler = Sampler(loaded["sd1"])
    with pytest.raises(ConfigError, match="without a ControlNet"):
        sampler("a cat", control_images=picture(1))
    sampler.add_controlnet(branches["sd1"])
    with pytest.raises(ConfigError, match="without a control picture"):
        sampler("a cat")
    with pytest.raises(ConfigError, match="3 prompts were given but 2 control pictures"):
        sampler(["a cat"] * 3, control_images=[picture(1), picture(2)])
    with pytest.raises(ConfigError, match="cannot be resized to 32x32"):
        sampler("a cat", control_images=picture(1, 64, 32), size=32)
    with pytest.raises(DataError, match="cannot be read"):
        sampler("a cat", control_images="missing.png")
    sampler.add_controlnet(branches["sd1"])
    with pytest.raises(ConfigError, match="2 ControlNets are given but 1 control pictures"):
        sampler("a cat", control_images=picture(1))


def test_a_range_without_a_whole_step_is_refused(
    loaded: dict[str, Backbone], branches: dict[str, Path]
) -> None:
    sampler = Sampler(loaded["sd1"])
    sampler.add_controlnet(ControlSpec(branches["sd1"], start=0.3, end=0.45))
    with pytest.raises(ConfigError, match="acts in none of 4"):
        sampler("a cat", control_images=picture(1), steps=4)


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match="not a finite number"):
        ControlSpec(Path("x"), scale=float("nan"))
    for start, end in ((0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (0.8, 0.2)):
        with pytest.raises(ConfigError, match="cannot act from"):
            ControlSpec(Path("x"), start=start, end=end)


def test_other_models_are_refused(
    loaded: dict[str, Backbone], branches: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="another model than"):
        Sampler(loaded["sd1"]).add_controlnet(branches["sdxl"])
    with pytest.raises(WeightsError, match="There is no ControlNet here"):
        Sampler(loaded["sd1"]).add_controlnet(tmp_path)
    with pytest.raises(WeightsError, match="no such folder"):
        Sampler(loaded["sd1"]).add_controlnet(tmp_path / "missing")
    # One that reduces control pictures by 8, for a VAE that reduces them by 4.
    ControlNetModel.from_unet(loaded["sd1"].unet).save_pretrained(tmp_path / "eight")
    with pytest.raises(WeightsError, match="reduces control pictures by 8"):
        Sampler(loaded["sd1"]).add_controlnet(tmp_path / "eight")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text((branches["sd1"] / "controlnet" / "config.json").read_text())
    (damaged / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError):
        Sampler(loaded["sd1"]).add_controlnet(damaged)
    (damaged / "config.json").write_text('{"_class_name": "T2IAdapter"}')
    with pytest.raises(WeightsError, match="T2IAdapter"):
        Sampler(loaded["sd1"]).add_controlnet(damaged)
