"""What the peers get: their code, pictures, commands, and transforms in place of torchvision's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.measure import run
from benchmarks.peers import setup
from benchmarks.peers.cases import CASES, DIFFUSERS, KOHYA, OURS, lora
from benchmarks.peers.place import Place
from benchmarks.peers.standins.torchvision import transforms


@pytest.fixture
def gradient() -> Image.Image:
    """A picture of 40 × 24 pixels, no two alike: red is the column, green the row."""
    rows, columns = np.mgrid[:24, :40].astype(np.uint8)
    return Image.fromarray(np.stack([columns, rows, np.full_like(rows, 255)], axis=-1))


def test_pixels_become_a_tensor_by_channel(gradient: Image.Image) -> None:
    tensor = transforms.ToTensor()(gradient)
    assert tensor.shape == (3, 24, 40)
    assert tensor[:, 5, 7].tolist() == pytest.approx([7 / 255, 5 / 255, 1.0])
    assert torch.equal(transforms.ToTensor()(np.asarray(gradient)), tensor)
    assert transforms.ToTensor()(gradient.convert("L")).shape == (1, 24, 40)


def test_normalized_is_between_minus_one_and_one(gradient: Image.Image) -> None:
    both = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
    assert both(gradient)[:, 0, 0].tolist() == [-1.0, -1.0, 1.0]


def test_the_shorter_side_is_resized(gradient: Image.Image) -> None:
    assert transforms.Resize(12)(gradient).size == (20, 12)
    assert transforms.Resize(12)(gradient.rotate(90, expand=True)).size == (12, 20)
    assert transforms.Resize(24)(gradient) is gradient
    nearest = transforms.Resize(48, transforms.InterpolationMode.NEAREST)(gradient)
    assert set(np.unique(np.asarray(nearest)[..., 0])) == set(range(40))  # nothing in between


def test_crops_are_squares_of_the_picture(gradient: Image.Image) -> None:
    assert transforms.CenterCrop(10)(gradient).getpixel((0, 0)) == (15, 7, 255)
    torch.manual_seed(0)
    corners = {transforms.RandomCrop(22)(gradient).getpixel((0, 0))[:2] for _ in range(1000)}
    assert corners == {(column, row) for column in range(19) for row in range(3)}


def test_mirrored_at_random(gradient: Image.Image) -> None:
    torch.manual_seed(0)
    first = [transforms.RandomHorizontalFlip()(gradient).getpixel((0, 0))[0] for _ in range(50)]
    assert set(first) == {0, 39}
    assert transforms.RandomHorizontalFlip(0.0)(gradient).getpixel((0, 0))[0] == 0


@pytest.mark.parametrize("address", [str, Path.as_uri], ids=["folder", "address"])
def test_only_the_needed_files_of_a_repository_are_copied(
    tmp_path: Path, address: Callable[[Path], str]
) -> None:
    source, place = tmp_path / "source", Place(tmp_path / "place")
    for name in ("train_network.py", "library/util.py", "networks/lora.py", "tools.exe", "docs/page.md"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name, encoding="utf-8")
    for command in ("init --quiet", "add .", "-c user.name=n -c user.email=e commit --quiet -m m"):
        subprocess.run(["git", *command.split()], cwd=source, check=True)
    setup.code(place, KOHYA, address(source))
    folder = place.code(KOHYA)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"train_network.py", "library/util.py", "networks/lora.py", "REVISION"}


def test_pictures_are_laid_out_for_each_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "SIZE", 32)
    place = Place(tmp_path)
    setup.pictures(place)
    names = sorted(f"{number}.png" for number in range(setup.PICTURES))
    # diffusers' scripts open every file of the folder as a picture.
    assert sorted(path.name for path in place.pictures.iterdir()) == names
    assert sorted(path.name for path in (place.repeated / "1_a photo of mycat").iterdir()) == names
    lines = [json.loads(line) for line in (place.pairs / "metadata.jsonl").read_text().splitlines()]
    assert len(lines) == setup.PICTURES
    for line in lines:
        for key in ("file_name", "conditioning_image_file_name"):
            with Image.open(place.pairs / line[key]) as picture:
                assert picture.size == (32, 32)


def test_every_case_compares_this_program_with_diffusers(tmp_path: Path) -> None:
    for programs, size in CASES.values():
        made = programs(Place(tmp_path), size, 8)
        for one in made.values():
            option = next(word for word in ("--batch-size", "--train_batch_size") if word in one.arguments)
            assert one.arguments[one.arguments.index(option) + 1] == "8"
        names = list(made)
        assert names[0].startswith(OURS)
        assert any(name.startswith(DIFFUSERS) for name in names)


@pytest.mark.slow
def test_ours_runs_and_a_missing_peer_is_told(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    place = Place(tmp_path)
    place.model.symlink_to(tiny_models["sd1"])
    setup.draw_pictures(place.pictures, 32, 2)
    programs = lora(place, 32)
    found = run(programs[OURS], 3, tmp_path / "ours.log")
    assert found.failure == ""
    assert len(found.steps) == 2
    assert "cannot be started" in run(programs[KOHYA], 3, tmp_path / "kohya.log").failure
