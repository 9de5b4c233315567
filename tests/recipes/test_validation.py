"""Held-out pictures: chosen by content, never trained on, their loss always that of the same samples."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from finetune.data.folder import Folder, Picture
from finetune.data.holdout import split
from finetune.errors import ConfigError, DataError
from finetune.recipes import RECIPES, build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.reporter import SILENT
from finetune.recipes.run import run
from finetune.recipes.validation import validation_source
from tests.battery.cases import SMALL
from tests.data.conftest import painted

if TYPE_CHECKING:
    from finetune.backbones import Backbone

pytestmark = pytest.mark.usefixtures("here")


def folder(names: range) -> Folder:
    digests = {n: hashlib.sha256(str(n).encode()).hexdigest() for n in names}
    pictures = (Picture(Path(f"{n}.png"), f"{n}.png", ("x",), digest, 8, 8) for n, digest in digests.items())
    return Folder(Path(), tuple(pictures), (), ())


def test_a_picture_stays_held_out_when_others_are_added() -> None:
    few, many = (split(folder(range(n)), 0.2) for n in (200, 1000))
    assert 0.15 < len(many[1].pictures) / 1000 < 0.25
    assert len(many[0].pictures) + len(many[1].pictures) == 1000
    old = set(folder(range(200)).pictures)
    assert {p for p in many[1].pictures if p in old} == set(few[1].pictures)


@pytest.mark.parametrize("share", [1e-6, 0.999999])
def test_none_or_all_is_an_error(share: float) -> None:
    with pytest.raises(DataError, match=r"data\.validation"):
        split(folder(range(5)), share)


def train(kind: str, model: Path, pictures: str, *changes: str, resume: bool = False) -> tuple[Path, str]:
    said: list[str] = []
    own = ("data.preprocess=grayscale",) if kind == "controlnet" else ("training.ema=true",)
    given = [parse_set(change) for change in (*SMALL, "data.validation_every=2", *own, *changes)]
    settings = [
        Setting("model.name", str(model), ""),
        Setting(f"data.{RECIPES[kind].folder_field}", pictures, ""),
        *{setting.key: setting for setting in given}.values(),
    ]
    return run(build(kind, settings), resume=resume, tell=said.append).folder, "\n".join(said)


@pytest.mark.parametrize("family", ["sd1"])
def test_pictures_to_validate_with_are_seen_as_they_are(backbone: Backbone) -> None:
    Path("held").mkdir()
    for number in range(4):
        painted(40, 32 + 4 * number, number).save(f"held/{number}.png")
    augmented = ["data.flip=true", "data.crop=random", "data.color_jitter=0.5", "data.variants=2"]
    batches = []
    for changes in ([], augmented):
        given = [parse_set(change) for change in (*SMALL, *changes, "data.data_dir=held")]
        recipe = build("full", given)
        adapter = recipe.make_adapter(backbone)
        held = recipe.scan()
        batches.append(
            [
                source.batches(range(8))
                for source in (
                    validation_source(recipe, held, adapter),
                    recipe.make_source(held, backbone, adapter, SILENT),
                )
            ]
        )
    (plain, _), (validated, trained) = batches
    for a, b, c in zip(plain, validated, trained, strict=True):
        assert torch.equal(a.latents, b.latents) and not torch.equal(a.latents, c.latents)


@pytest.mark.parametrize("kind", ["full", "controlnet"])
def test_the_loss_of_held_out_pictures_is_logged_and_nothing_is_learned_from_them(
    kind: str, tiny_models: dict[str, Path]
) -> None:
    Path("all").mkdir()
    for number in range(8):
        painted(40, 32 + 4 * number, number).save(f"all/{number}.png")
        Path(f"all/{number}.txt").write_text("a cat")
    folder, said = train(kind, tiny_models["sd1"], "all", "data.validation=0.4", "output.dir=one")
    lines = (folder / "validation.jsonl").read_text().splitlines()
    losses = {line["step"]: line["validation_loss"] for line in map(json.loads, lines)}
    assert sorted(losses) == [2, 4]
    assert losses[2] != losses[4]
    trained = {json.loads(line)["file"] for line in (folder / "pictures.jsonl").read_text().splitlines()}
    held = {f"{n}.png" for n in range(8)} - trained
    assert 0 < len(held) < 8
    assert all(name in said.partition("held out for validation: ")[2].splitlines()[0] for name in held)
    # The same run on the other pictures, validated with those in a folder of their own.
    for place, names in (("rest", trained), ("held", held)):
        Path(place).mkdir()
        for name in names:
            for file in (Path("all", name), Path("all", name).with_suffix(".txt")):
                shutil.copy(file, place)
    other, _ = train(kind, tiny_models["sd1"], "rest", "data.validation_dir=held", "output.dir=two")
    weights = [load_file(run / "checkpoints/step-000004/weights.safetensors") for run in (folder, other)]
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])
    assert (other / "validation.jsonl").read_text().splitlines() == lines
    # Resumed, it logs the same again.
    shutil.rmtree(folder / "checkpoints/step-000004")
    shutil.rmtree(folder / ("controlnet" if kind == "controlnet" else "model"))
    train(kind, tiny_models["sd1"], "all", "data.validation=0.4", "output.dir=one", resume=True)
    assert (folder / "validation.jsonl").read_text().splitlines() == lines


@pytest.mark.parametrize(
    "changes", [("data.validation=0.2", "data.validation_dir=x"), ("data.validation_every=7",)]
)
def test_what_would_have_no_effect_is_refused(changes: tuple[str, ...]) -> None:
    settings = [Setting("data.data_dir", "x", ""), *(parse_set(change) for change in changes)]
    with pytest.raises(ConfigError, match=r"data\.validation"):
        build("full", settings)
