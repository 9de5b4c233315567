"""Runs on inpainting models: every recipe trains them, resumes to the bit, and leaves one again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from finetune.backbones import Backbone, load_backbone
from finetune.backbones.checkpoint import read_header
from finetune.backbones.controlnet import read_branch
from finetune.backbones.single_file import convert
from finetune.config import ModelSection
from finetune.errors import ModelError
from finetune.export import Job, Made, export
from finetune.formats import apply_lora, read_lora, write_checkpoint
from finetune.recipes import RECIPES, build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import run
from tests.tiny import Family

SMALL = (
    *("training.steps=2", "training.checkpoint_every=1", "training.ema=false"),
    *("optimizer.name=adamw", "optimizer.lr=0.01", "optimizer.warmup_steps=0"),
    *("preview.every=2", "preview.steps=1", "preview.num=1"),
)
OWN = {
    "lora": ("adapter.rank=2",),
    "embedding": (),
    "full": ("output.weights=fp32", "output.single_file=true"),
    "dreambooth": ("output.weights=fp32", "data.class_prompt=a cat", "data.num_class_images=2"),
    "controlnet": ("data.preprocess=grayscale", "output.weights=fp32"),
}
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
pytestmark = pytest.mark.usefixtures("here")
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


def train(kind: str, pictures: Path, model: Path, *changes: str, resume: bool = False) -> Path:
    given = {change.partition("=")[0]: change for change in (*SMALL, *OWN[kind], *changes)}
    settings = [
        Setting(f"data.{RECIPES[kind].folder_field}", pictures, "test"),
        Setting("model.name", str(model), "test"),
        *map(parse_set, given.values()),
    ]
    return run(build(kind, settings), resume=resume, tell=lambda line: None).folder


def same(one: Path, other: Path) -> bool:
    left, right = load_file(one), load_file(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("kind", ["lora", "embedding", "full"])
@one_family
def test_a_killed_run_resumes_to_the_bit(
    kind: str, family: Family, inpainting_models: dict[str, Path], pictures: Path
) -> None:
    model, weights = inpainting_models[family], Path("step-000002") / "weights.safetensors"
    folder = train(kind, pictures, model)
    shutil.move(folder / "checkpoints" / "step-000002", "whole")
    finished = folder / RECIPES[kind].finished_by
    finished.unlink()
    assert train(kind, pictures, model, resume=True) == folder
    assert finished.is_file()
    assert same(folder / "checkpoints" / weights, Path("whole") / weights.name)
    assert not same(folder / "checkpoints" / "step-000001" / weights.name, Path("whole") / weights.name)


def test_a_merged_lora_leaves_an_inpainting_model(
    inpainting: Backbone,
    inpainting_models: dict[str, Path],
    family: Family,
    tiny_folder: Path,
    pictures: Path,
) -> None:
    folder = train("lora", pictures, inpainting_models[family])
    out = Path("merged")
    export("merged", Made("lora", folder), Job(folder, inpainting, out))
    theirs: Any = DiffusionPipeline.from_pretrained(out, local_files_only=True)
    index = json.loads((inpainting_models[family] / "model_index.json").read_text())
    assert type(theirs).__name__ == index["_class_name"]
    assert theirs.unet.config.in_channels == theirs.unet.conv_in.weight.shape[1] == 9

    merged = load_backbone(ModelSection(name=str(out)))
    file = Path("merged.safetensors")
    write_checkpoint(file, merged, {}, torch.float32)
    assert load_file(file)[FIRST].shape[1] == 9
    single = convert(
        file, family, tiny_folder, merged.tokenizers, ModelSection(name="single"), read_header(file, False)
    )
    apply_lora(inpainting, read_lora(folder, inpainting))
    noisy, told = torch.randn(1, 4, 8, 8), merged.conditioning(["a photo of mycat"])
    answers = [m.predict(noisy, torch.tensor([500]), told) for m in (inpainting, merged, single)]
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["full", "dreambooth"])
def test_the_whole_model_stays_an_inpainting_model(
    kind: str,
    family: Family,
    inpainting_models: dict[str, Path],
    loaded_inpainting: dict[str, Backbone],
    pictures: Path,
) -> None:
    folder = train(kind, pictures, inpainting_models[family])
    theirs: Any = DiffusionPipeline.from_pretrained(folder / "model")
    assert "Inpaint" in type(theirs).__name__
    before = loaded_inpainting[family].unet.conv_in.weight
    changed = (theirs.unet.conv_in.weight != before).flatten(2).any(2).any(0)
    assert changed.tolist() == [True] * 9
    if kind == "full":
        single = load_file(folder / f"{folder.name}.safetensors")
        assert torch.equal(single[FIRST], theirs.unet.conv_in.weight)


@one_family
def test_a_controlnet_starts_from_an_ordinary_model_and_goes_on_with_either(
    family: Family,
    inpainting: Backbone,
    inpainting_models: dict[str, Path],
    tiny_folder: Path,
    pictures: Path,
) -> None:
    with pytest.raises(ModelError, match="cannot start as a copy of an inpainting UNet"):
        train("controlnet", pictures, inpainting_models[family])
    assert not Path("runs").exists()
    first = train("controlnet", pictures, tiny_folder)
    second = train("controlnet", pictures, inpainting_models[family], f"adapter.start={first}")
    assert read_branch(second, inpainting).conv_in.weight.shape[1] == 4
    weights = Path("controlnet") / "diffusion_pytorch_model.safetensors"
    assert not same(first / weights, second / weights)
