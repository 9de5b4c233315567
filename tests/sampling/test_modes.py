"""Every way to sample, with and without a ControlNet and a LoRA, on every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.backbones import Backbone, load_backbone
from finetune.config import ModelSection
from finetune.sampling import ControlSpec, Sampler
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
}
SIZES = {"hires": (48, 48)}
CHANGED = {"inpainting": MASK, "outpainting": Image.new("L", (32, 32), 0)}
CHANGED["outpainting"].paste(255, (24, 0, 32, 32))
KINDS = ("ordinary", "inpainting")


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
            (first,) = sampler("a red cat", **given, **settings)
            assert first.image.size == SIZES.get(mode, (32, 32))
            assert len(first.info().get("controlnets", [])) == controlled
            assert len(first.loras) == learned
            images[controlled, learned] = first.image
    (again,) = sampler("a red cat", control_images=picture(4), **settings)
    assert difference(images[True, True], again.image) == 0
    pairs = [(a, b) for a in images for b in images if a < b]
    assert all(difference(images[a], images[b]) > 1 for a, b in pairs)
    if mode in CHANGED:
        kept = np.asarray(CHANGED[mode]) == 0
        values = [np.asarray(image)[kept] for image in images.values()]
        assert all((value == values[0]).all() for value in values)
