"""X/Y plots: what their axes mean, and that each place is the picture that its settings give alone."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.cli import main
from finetune.errors import ConfigError
from finetune.sampling.axes import Axis, points, read_axes
from finetune.sampling.grid import plot

Output = pytest.CaptureFixture[str]


def test_axes_are_read_and_their_places_go_row_by_row() -> None:
    axes = read_axes(["sampling.guidance=3, 5", "lora.weight=0,1"])
    assert axes == [Axis("guidance", ("3", "5")), Axis("lora.weight", ("0", "1"))]
    assert [tuple(value for _, value in point) for point in points(axes)] == [
        ("3", "0"),
        ("5", "0"),
        ("3", "1"),
        ("5", "1"),
    ]
    assert points([]) == [()]


@pytest.mark.parametrize(
    "texts", [["guidance"], ["=3"], ["guidance=3,,4"], ["a=1", "b=1", "c=1"], ["a=1", "a=2"]]
)
def test_what_is_no_axis_is_refused(texts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_axes(texts)
    assert "--grid" in str(caught.value) and caught.value.exit_code == 2


def test_a_plot_has_each_picture_at_its_place() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 0), (0, 255, 255)]
    made = plot([Image.new("RGB", (64, 64), c) for c in colors], ["a", "b", "c"], ["d", "e"], "title")
    pixels = np.asarray(made)
    for index, color in enumerate(colors):
        rows, columns = np.nonzero((pixels == color).all(2) if sum(color) else (pixels < 5).all(2))
        center = columns.mean() / made.width, rows.mean() / made.height
        others = [(place % 3, place // 3) for place in range(index)]
        assert (index % 3, index // 3) not in others
        assert index // 3 == round(center[1] * 2 - 0.6) and index % 3 == int((center[0] - 0.06) * 3.1)


def sampled(model: Path, place: str, *flags: str) -> list[Path]:
    given = ["sample", "a red cat", "--model", str(model), "--size", "32", "--steps", "2", *flags]
    assert main([*given, "--output-dir", place]) == 0
    return sorted(path for path in Path(place).glob("*.png") if "grid" not in path.name)


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


@pytest.mark.parametrize("family", ["sd1"])
def test_each_place_is_the_picture_that_its_settings_give(
    tiny_folder: Path, here: Path, capsys: Output
) -> None:
    axes = ["--grid", "guidance=1,4", "--grid", "seed=3,4"]
    many = sampled(tiny_folder, "many", *axes)
    assert "and many/grid.png with all of them" in capsys.readouterr().out
    alone = [
        pixels(sampled(tiny_folder, f"{g}{s}", "--guidance", g, "--seed", s)[0]) for s in "34" for g in "14"
    ]
    assert {pixels(path) for path in many} == set(alone) and len(set(alone)) == 4
    with Image.open("many/grid.png") as sheet:
        assert sheet.text["finetune"].count('"prompt"') == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", ["sd1"])
def test_words_are_replaced(tiny_folder: Path, here: Path) -> None:
    names = [path.name for path in sampled(tiny_folder, "many", "--grid", "prompt=red,blue")]
    assert names == ["a-blue-cat-0.png", "a-red-cat-0.png"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--grid guidance=1,x", "sampling.guidance must be a number"),
        ("--grid guidence=1", "sampling.guidence is not a setting"),
        ("--grid prompt=dog,cat", '"dog" is not in the prompt'),
        ("--grid lora.weight=1", "weight of no LoRA"),
        ("--lora x --grid lora.x=1,nan", "'nan' is not a weight"),
    ],
)
def test_faults_of_axes_are_told_before_a_model_is_loaded(
    flags: str, told: str, here: Path, capsys: Output
) -> None:
    assert main(["sample", "a cat", "--model", "nowhere", *shlex.split(flags)]) == 2
    error = capsys.readouterr().err
    assert told in error and "--grid" in error
