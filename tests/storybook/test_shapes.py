"""The subject in pictures of several shapes, and the command that learns it from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.backbones import load_backbone
from finetune.config import ModelSection
from finetune.data.preprocess import place
from storybook.drawing import draw, draw_subject
from storybook.shapes import PROMPTS, RATIOS, WAYS, crop_box, in_view, main, marked, placements, show_figures
from storybook.world import SCENES, Spec

SIZES = [(362, 181), (314, 209), (256, 256), (209, 314), (181, 362)]


def drawn_five(seed: int = 5, size: int = 256) -> list[tuple[Image.Image, Image.Image]]:
    return draw_subject(5, size=size, seed=seed, ratios=list(RATIOS.values()))


def test_pictures_have_the_shapes_that_they_say() -> None:
    drawn = drawn_five()
    assert [picture.size for picture, _ in drawn] == [mask.size for _, mask in drawn] == SIZES
    for (name, ratio), (width, height) in zip(RATIOS.items(), SIZES, strict=True):
        across, down = map(int, name.split(":"))
        assert ratio == across / down == pytest.approx(width / height, rel=0.003)
        assert width * height == pytest.approx(256**2, rel=0.005)


def test_the_subject_is_whole_as_large_as_in_a_square_and_stands_aside() -> None:
    ends = set()
    shares: dict[str, list[float]] = {shape: [] for shape in RATIOS}
    for seed in range(12):
        for shape, (picture, mask) in zip(RATIOS, drawn_five(seed, 64), strict=True):
            inside = np.asarray(mask, dtype=float) / 255
            assert inside[:, [0, -1]].mean() < 0.15 and inside[[0, -1]].mean() < 0.01
            shares[shape].append(inside.mean())
            columns, rows = inside.sum(0) / inside.sum(), inside.sum(1) / inside.sum()
            across = columns @ np.arange(picture.width) / picture.width
            if picture.width > picture.height:
                ends.add(across > 0.5)
                assert abs(across - 0.5) > (0.15 if shape == "2:1" else 0.08)
            if picture.width < picture.height:
                assert rows @ np.arange(picture.height) / picture.height > 0.55
            side = min(picture.size)
            view = in_view(mask, place((picture.height, picture.width), (side, side)))
            assert {"1:1": view == 1, "2:1": view < 0.8, "1:2": view < 0.8}.get(shape, 0.5 < view < 1)
    assert ends == {True, False}
    mean = {shape: np.mean(values) for shape, values in shares.items()}
    assert all(0.85 < mean[shape] / mean["1:1"] < 1.15 for shape in RATIOS)


@pytest.mark.parametrize("scene", SCENES)
def test_scenery_fills_every_shape(scene: str) -> None:
    spec = Spec("bird", "red", scene)
    for seed in range(6):
        for ratio in (*RATIOS.values(), 6.0):
            picture = np.asarray(draw(spec, np.random.default_rng(seed), 64, ratio), dtype=float)
            # The ground reaches both ends, with no hole through which the sky is seen.
            assert np.abs(picture[-1, [0, -1]] - np.median(picture[-1], 0)).max() < 60
            if ratio == 0.5:  # nothing but sky at the top
                assert np.abs(picture[:8] - np.median(picture[0], 0)).max() < 25


def test_crops_are_told_as_training_makes_them() -> None:
    picture, placement = Image.new("L", (128, 64)), place((64, 128), (64, 64))
    assert crop_box(picture, placement) == (32, 0, 96, 64)
    assert crop_box(picture.resize((256, 128)), placement) == (64, 0, 192, 128)
    picture.paste(255, (0, 0, 64, 64))
    assert in_view(picture, placement) == 0.5
    assert in_view(picture, place((64, 128), (64, 128))) == 1


def test_ways_crop_as_a_run_does() -> None:
    backbone, drawn = load_backbone(ModelSection(name="storybook")), drawn_five()
    buckets, squares = (
        [placement.size for placement in placements(WAYS[name], drawn, backbone)]
        for name in ("five shapes, in buckets", "five shapes, cropped to squares")
    )
    assert buckets == [(48, 80), (48, 80), (64, 64), (80, 48), (80, 48)]
    assert squares == [(64, 64)] * 5
    shown = marked(drawn, backbone)
    assert [picture.size for picture in shown] == [(256, 128), (256, 170), (256, 256), (170, 256), (128, 256)]
    # The left edge of the square in the widest picture, and of the whole square one, which is drawn last.
    assert [shown[0].getpixel((64, 60)), shown[2].getpixel((0, 60))] == [(220, 0, 0)] * 2


def test_means_and_ranges_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    show_figures({"one": [{"subject": 0.5}, {"subject": 1.0}], "other": [{"subject": 0.25}]})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "subject"
    assert lines[1].split() == ["one", "75.0", "%", "(50.0", "to", "100.0)"]
    assert lines[2].split() == ["other", "25.0", "%", "(25.0", "to", "25.0)"]


def test_the_command_draws_trains_and_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shapes"
    given = ["--output-dir", str(folder), "--seeds", "1", "--count", "1", "--steps", "2"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert said.count("Training 2 steps of 8 pictures") == 3
    assert "in 3 shapes: 80x48 (2), 48x80 (2), 64x64 (1)" in said
    assert said.count("at 64x64 pixels") == 2
    assert all(said.count(name) >= 3 for name in WAYS)
    assert len(list(folder.glob("*/seed-0/*.safetensors"))) == 6
    with Image.open(folder / "shapes.png") as sheet:
        assert sheet.width > len(PROMPTS) * 256
    with pytest.raises(SystemExit):
        main(given)
    assert "already exists" in capsys.readouterr().err
