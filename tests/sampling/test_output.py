"""Folders of samples, and previews."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from finetune.config import PreviewSection
from finetune.sampling.output import save_samples, sheet, slug
from finetune.sampling.preview import preview, preview_prompts
from finetune.sampling.sampler import Sampler


@pytest.fixture(scope="module")
def sampler(tiny_models: dict[str, Path]) -> Sampler:
    return Sampler.load(str(tiny_models["sd1"]))


def test_pictures_and_a_grid(sampler: Sampler, tmp_path: Path) -> None:
    samples = sampler(["A cat, on snow!", "a dog"], num=2, steps=1)
    first = save_samples(samples, tmp_path / "out")
    names = ["a-cat-on-snow-0.png", "a-cat-on-snow-1.png", "a-dog-0.png", "a-dog-1.png"]
    assert [path.name for path in first.pictures] == names
    assert first.grids == (tmp_path / "out" / "grid.png",)
    with Image.open(first.grids[0]) as picture:
        picture.load()
        assert json.loads(picture.text["finetune"])["samples"] == [sample.info() for sample in samples]
    again = save_samples(samples, tmp_path / "out")
    assert again.grids == (tmp_path / "out" / "grid-2.png",)
    assert not {*first.pictures} & {*again.pictures}
    assert sorted(tmp_path.rglob("*.png")) == sorted(
        [*first.pictures, *first.grids, *again.pictures, *again.grids]
    )


def test_one_picture_needs_no_grid(sampler: Sampler, tmp_path: Path) -> None:
    assert save_samples(sampler("a cat", steps=1), tmp_path).grids == ()


def test_a_row_for_each_prompt(sampler: Sampler) -> None:
    wide = sheet(sampler(["a cat", "a dog"], num=3, steps=1))
    assert (wide.width - 8) // 200 == 3


def test_info_makes_the_picture_again(sampler: Sampler) -> None:
    sample = sampler(["a cat", "a dog"], num=2, steps=2, seed=4, guidance=3.0, scheduler="euler-a")[3]
    info = sample.info()
    settings = {name: info[name] for name in ("negative", "steps", "guidance", "scheduler", "size")}
    again = sampler(info["prompt"], seed=info["seed"], **settings)[0]
    assert info["seed"] == 5
    assert again.info() == info


def test_nothing_tells_where_the_model_is(sampler: Sampler, tmp_path: Path) -> None:
    assert Path(sampler.backbone.name).is_absolute()
    (file,) = save_samples(sampler("a cat", steps=1), tmp_path).pictures
    with Image.open(file) as picture:
        told = str(picture.info)
    assert str(Path(sampler.backbone.name).parent) not in told and "Model: sd1," in told


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a cat / ../..", "a-cat"),
        ("", "picture"),
        ("кот 猫", "кот-猫"),
        ("word " * 40, "-".join(["word"] * 12)),
    ],
)
def test_slug(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_preview_is_one_file_replaced_on_resume(sampler: Sampler, tmp_path: Path) -> None:
    path = tmp_path / "samples" / "step-000400.png"
    section = PreviewSection(num=3, steps=1, seed=6)
    for _ in range(2):
        samples = preview(sampler, ["a cat", "a dog", "a cat"], section, path)
        assert [(s.prompt, s.seed) for s in samples] == [("a cat", 6), ("a dog", 7), ("a cat", 8)]
        assert list(path.parent.iterdir()) == [path]


def test_preview_prompts() -> None:
    assert preview_prompts(["a", "a"], PreviewSection(prompts=["x", "y"])) == ["x", "y"]
    assert preview_prompts(["a", "b", "c"], PreviewSection(num=2)) == ["a", "b"]
    assert preview_prompts([], PreviewSection(num=1)) == [""]
