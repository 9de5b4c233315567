"""PNG files that say how they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.sampling.png import parameters, save_png, write_png

IMAGE = Image.new("RGB", (64, 64), (10, 20, 30))
INFO: dict[str, Any] = {
    "prompt": "a photo of mycat on snow",
    "seed": 7,
    "negative": "blurry, grey",
    "steps": 25,
    "guidance": 5.0,
    "scheduler": "euler-a",
    "size": [64, 96],
    "model": "storybook",
    "loras": [["mycat", 0.8]],
    "precision": "fp32",
}


def test_parameters_have_the_layout_of_a1111() -> None:
    first, second, last = parameters(INFO).split("\n")
    assert first == "a photo of mycat on snow <lora:mycat:0.8>"
    assert second == "Negative prompt: blurry, grey"
    settings = "Steps: 25, Sampler: Euler a, CFG scale: 5, Seed: 7, Size: 64x96, Model: storybook, "
    assert last.startswith(f"{settings}Version: finetune ")


def test_values_with_separators_are_quoted() -> None:
    assert 'Model: "C:\\\\a, b"' in parameters({**INFO, "model": "C:\\a, b"})


def test_chunks_are_read_back(tmp_path: Path) -> None:
    info = {**INFO, "prompt": "кот – 猫 🐈"}
    path = save_png(IMAGE, tmp_path / "new" / "a.png", info)
    with Image.open(path) as picture:
        picture.load()
        assert picture.text["parameters"] == parameters(info)
        assert json.loads(picture.text["finetune"])["samples"] == [info]
        assert picture.tobytes() == IMAGE.tobytes()
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")
    assert save_png(IMAGE, path, INFO) == tmp_path / "a-2.png"
    assert save_png(IMAGE, path, INFO) == tmp_path / "a-3.png"
    assert path.read_text() == "old"


def test_nothing_is_left_of_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        save_png(IMAGE, tmp_path / "a.png", {"prompt": "incomplete"})
    assert list(tmp_path.iterdir()) == []


def test_write_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")
    assert write_png(IMAGE, path) == path
    with Image.open(path) as picture:
        assert picture.size == (64, 64)
