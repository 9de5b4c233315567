"""Pictures that the bundled model knows raise no warning; photograph-like ones do, in every recipe."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from finetune.backbones import Backbone, load_backbone
from finetune.backbones.resolve import storybook_folder
from finetune.config import ModelSection
from finetune.data import scan_folder
from finetune.recipes import RECIPES, Recipe, build
from finetune.recipes.foreign import BEST_FLAGS, FILE, LOOKED_AT, Measure, tell_if_foreign
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.reporter import Reporter, no_progress
from finetune.recipes.run import assemble
from finetune.training import RunFolder
from storybook.strangers import WEAR, draw_scenes, main

pytestmark = pytest.mark.skipif(not storybook_folder().is_dir(), reason="the bundled model is missing")
MYCAT = Path(__file__).parents[2] / "datasets" / "mycat"


@pytest.fixture(scope="module")
def storybook() -> Backbone:
    return load_backbone(ModelSection(name="storybook"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of soft shapes with the grain of natural pictures, as a camera would save them."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(3):
        photograph(seed).save(folder / f"{seed}.jpg", quality=90)
    return folder


def photograph(seed: int, side: int = 256) -> Image.Image:
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    waves = np.fft.rfft2(rng.standard_normal((3, side, side))) / np.maximum(frequency, 1 / side)
    grain = np.fft.irfft2(waves, s=(side, side))
    grain /= grain.std()
    sheet = Image.new("RGB", (side, side), tuple(rng.integers(60, 200, 3).tolist()))
    for _ in range(25):
        (x, y), r = rng.integers(0, side, 2).tolist(), int(rng.integers(15, 60))
        ImageDraw.Draw(sheet).ellipse((x - r, y - r, x + r, y + r), tuple(rng.integers(20, 240, 3).tolist()))
    shapes = np.asarray(sheet.filter(ImageFilter.GaussianBlur(4)), dtype=float)
    return Image.fromarray(np.clip(shapes + 25 * grain.transpose(1, 2, 0), 0, 255).astype(np.uint8))


def recipe(kind: str, pictures: Path, *changes: Setting, model: str = "storybook") -> Recipe:
    settings: dict[str, object] = {f"data.{RECIPES[kind].folder_field}": pictures, "model.name": model}
    settings["training.precision"] = "fp32"
    if kind == "controlnet":
        settings["data.preprocess"] = "edges"
    if kind == "embedding":
        settings |= {"adapter.placeholder": "<own>", "data.instance_prompt": "a photo of <own>"}
    return build(kind, [Setting(key, value, "here") for key, value in settings.items()] + list(changes))


def told_about(backbone: Backbone, folder: Path) -> str:
    said: list[str] = []
    tell_if_foreign(recipe("lora", folder), backbone, scan_folder(folder).pictures, Reporter(said.append))
    return "\n".join(said)


def said_by(recipe: Recipe, run_folder: Path) -> str:
    """What a recipe tells before training."""
    said: list[str] = []
    assemble(recipe, RunFolder(run_folder), Reporter(said.append, no_progress))
    return "\n".join(said)


@pytest.mark.parametrize("wear", WEAR)
def test_pictures_of_its_world_raise_no_warning(storybook: Backbone, wear: str, tmp_path: Path) -> None:
    for number, scene in enumerate(draw_scenes(LOOKED_AT)):
        WEAR[wear](scene).save(tmp_path / f"{number:02}.png")
    assert told_about(storybook, tmp_path) == ""


def test_the_demo_raises_no_warning(storybook: Backbone) -> None:
    assert told_about(storybook, MYCAT) == ""


def test_photographs_among_others_are_counted(storybook: Backbone, photographs: Path, tmp_path: Path) -> None:
    for file in (*MYCAT.glob("*.png"), *photographs.iterdir()):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert "3 of the 8 pictures" in told_about(storybook, tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in RECIPES if "model.name" not in RECIPES[kind].unused])
def test_every_recipe_warns_of_photographs_and_names_other_models(
    kind: str, photographs: Path, tmp_path: Path
) -> None:
    said = said_by(recipe(kind, photographs), tmp_path / "run")
    assert "These pictures are not of the world that storybook draws" in said
    assert "--model sd15" in said
    # Only where something is preserved does it help to preserve nothing.
    assert (BEST_FLAGS in said) == (kind == "lora")


def test_who_follows_the_advice_is_not_given_it_again(photographs: Path, tmp_path: Path) -> None:
    words = shlex.split(BEST_FLAGS)
    changes = [parse_set(value) for flag, value in pairwise(words) if flag == "--set"]
    said = said_by(recipe("lora", photographs, *changes), tmp_path / "run")
    assert "--model sd15" in said and BEST_FLAGS not in said


def test_other_models_are_never_judged(
    tiny_models: dict[str, Path], photographs: Path, tmp_path: Path
) -> None:
    other = recipe("lora", photographs, model=str(tiny_models["sd1"]))
    assert "storybook" not in said_by(other, tmp_path / "run")


def test_the_command_prints_what_it_measured(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "4", str(photographs)]) == 0
    *scenes, folder = capsys.readouterr().out.splitlines()
    assert len(scenes) == len(WEAR) and all(line.endswith("foreign 0 of 4") for line in scenes)
    assert folder.endswith("foreign 3 of 3")


def test_a_model_that_was_made_anew_gets_a_limit_of_its_own(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("storybook.strangers.storybook_folder", lambda: tmp_path)
    assert main(["--count", "4", "--write", str(photographs)]) == 0
    least = min(float(line.rsplit("  ", 1)[0].split()[-3]) for line in folder_lines(capsys, photographs))
    assert 0 < Measure.read(tmp_path / FILE).limit < least


def folder_lines(capsys: pytest.CaptureFixture[str], folder: Path) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(folder))]
