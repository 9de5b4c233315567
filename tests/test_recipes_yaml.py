"""Every recipe under recipes/ runs for two steps, on a tiny model of its family."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.recipes.load import RECIPES, Setting, build, read_recipe_file
from finetune.recipes.run import run

ROOT = Path(__file__).parent.parent / "recipes"
FILES = sorted(ROOT.rglob("*.yaml"))
FAMILIES = {"storybook": "sd1", "sd15": "sd1", "sd21": "sd2", "sdxl": "sdxl"}


def test_there_are_recipes() -> None:
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_recipe_runs(file: Path, tiny_models: dict[str, Path], here: Path) -> None:
    (here / "mycat").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(here / "mycat" / "1.png")
    kind, settings = read_recipe_file(file)
    named = {setting.key: setting.value for setting in settings}
    changes = {
        f"data.{RECIPES[kind].folder_field}": "mycat",
        "data.resolution": 32,
        "optimizer.warmup_steps": 1,
        "training.steps": 2,
        "training.batch_size": 1,
        "preview.every": 2,
        "preview.steps": 1,
        "preview.num": 1,
    }
    if "model.name" in named:
        changes["model.name"] = str(tiny_models[FAMILIES[named["model.name"]]])
    if kind == "pretrain":
        changes |= {"autoencoder.steps": 1, "training.precision": "fp32"}
    if "autoencoder.data_dir" in named:
        changes["autoencoder.data_dir"] = "mycat"
    if "data.class_prompt" in named:
        changes["data.num_class_images"] = 1
    if kind == "controlnet" and "data.preprocess" not in named:
        shutil.copytree(here / "mycat", here / "control")
        changes["data.conditioning_dir"] = "control"
    recipe = build(kind, [*settings, *(Setting(key, value, "test") for key, value in changes.items())])
    result = run(recipe, tell=lambda line: None)
    assert result.files
    assert all(path.stat().st_size > 0 for path in result.files)
    assert (result.folder / "samples" / "step-000002.png").is_file()
