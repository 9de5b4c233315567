"""Caption files: which are missing, and what is written."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from finetune.captioning import Caption, Captioned, find_uncaptioned, write_captions
from finetune.errors import DataError

RED = (220, 30, 30)


def put(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, RED).save(path)
    return path


def sizes(images: Sequence[Image.Image]) -> list[Caption]:
    """A describer that says how large each picture is."""
    return [Caption(f"{image.width} by {image.height}", True) for image in images]


def test_pictures_without_a_caption_are_found_in_all_folders(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "with.png", "also.png", ".hidden/d.png", ".e.png"):
        put(tmp_path / name)
    put(tmp_path / "a.png")
    (tmp_path / "with.txt").write_text("a cat")
    (tmp_path / "also.CAPTION").write_text("")
    (tmp_path / "notes.md").write_text("none")
    found = find_uncaptioned(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.pictures] == [
        "a.JPG",
        "b.png",
        "deep/er/c.webp",
    ]
    assert found.captioned == 2
    assert not found.skipped


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "b.psd").write_bytes(b"layers")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    found = find_uncaptioned(tmp_path)
    assert [path.name for path in found.pictures] == ["a.png"]
    assert {skip.path.name: skip.reason.split()[0] for skip in found.skipped} == {
        "b.psd": "this",
        "gone.png": "the",
        "pipe.png": "it",
    }


def test_a_picture_that_other_tools_captioned_is_left_alone(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        put(tmp_path / name)
    (tmp_path / "a.caption").write_text("a cat")
    (tmp_path / "meta_cap.json").write_text(json.dumps({"b": {"caption": "a dog"}}))
    found = find_uncaptioned(tmp_path)
    assert [path.name for path in found.pictures] == ["c.png"]
    assert found.captioned == 2


def test_no_pictures_or_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        find_uncaptioned(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_uncaptioned(tmp_path / "none")
    with pytest.raises(DataError, match="a file, but a folder"):
        find_uncaptioned(put(tmp_path / "a.png"))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_each_picture_gets_its_own_caption_and_a_bad_one_is_named(tmp_path: Path, batch_size: int) -> None:
    pictures = [put(tmp_path / "x" / f"{i}.png", (20 + i, 10)) for i in range(4)]
    bad = tmp_path / "x" / "1b.png"
    bad.write_bytes(b"\x89PNG no more")
    steps: list[tuple[int, int]] = []
    order = [*pictures[:2], bad, *pictures[2:]]
    done = write_captions(order, sizes, batch_size=batch_size, progress=lambda *step: steps.append(step))
    assert {file.name: file.read_text() for file in done.written} == {
        f"{i}.txt": f"{20 + i} by 10\n" for i in range(4)
    }
    assert [(skip.path, "damaged" in skip.reason) for skip in done.skipped] == [(bad, True)]
    assert steps[-1] == (5, 5)
    assert {path.suffix for path in (tmp_path / "x").iterdir()} == {".png", ".txt"}, "no partial files"


@pytest.mark.parametrize(
    ("prefix", "caption"),
    [
        ("", "40 by 30"),
        ("mycat", "mycat, 40 by 30"),
        ("a photo of mycat:", "a photo of mycat: 40 by 30"),
        ("我的猫", "我的猫, 40 by 30"),
    ],
)
def test_a_prefix(tmp_path: Path, prefix: str, caption: str) -> None:
    write_captions([put(tmp_path / "a.png")], sizes, prefix=prefix)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == f"{caption}\n"


def test_a_file_that_appears_meanwhile_is_left(tmp_path: Path) -> None:
    picture = put(tmp_path / "a.png")

    def slow(images: Sequence[Image.Image]) -> list[Caption]:
        (tmp_path / "a.txt").write_text("mine")
        return sizes(images)

    done = write_captions([picture], slow)
    assert (tmp_path / "a.txt").read_text() == "mine"
    assert "left as it is" in done.skipped[0].reason
    assert not done.written


def test_a_picture_that_the_model_cannot_take_costs_no_other(tmp_path: Path) -> None:
    pictures = [put(tmp_path / f"{i}.png", size) for i, size in enumerate([(9, 9), (900, 2), (8, 8), (7, 7)])]

    def narrow(images: Sequence[Image.Image]) -> list[Caption]:
        if any(image.width > 100 * image.height for image in images):
            raise ValueError("too wide")
        return [Caption("" if image.width == 8 else "square", image.width == 9) for image in images]

    done = write_captions(pictures, narrow, batch_size=4)
    assert {file.name for file in done.written} == {"0.txt", "3.txt"}
    assert [file.name for file in done.cut] == ["3.txt"]
    assert [(skip.path.name, skip.reason) for skip in done.skipped] == [
        ("1.png", "the model cannot describe it (too wide)"),
        ("2.png", "the model says nothing about it"),
    ]


def test_memory_that_runs_out_is_no_fault_of_a_picture(tmp_path: Path) -> None:
    def greedy(images: Sequence[Image.Image]) -> list[Caption]:
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        write_captions([put(tmp_path / "a.png"), put(tmp_path / "b.png")], greedy, batch_size=2)


def test_what_is_written_before_an_interrupt_stays(tmp_path: Path) -> None:
    pictures = [put(tmp_path / f"{i}.png") for i in range(3)]

    def impatient(images: Sequence[Image.Image]) -> list[Caption]:
        if (tmp_path / "1.txt").exists():
            raise KeyboardInterrupt
        return sizes(images)

    done = Captioned()
    with pytest.raises(KeyboardInterrupt):
        write_captions(pictures, impatient, done=done)
    assert sorted(os.listdir(tmp_path)) == ["0.png", "0.txt", "1.png", "1.txt", "2.png"]
    assert [file.name for file in done.written] == ["0.txt", "1.txt"]


def test_large_pictures_are_reduced_before_they_are_described(tmp_path: Path) -> None:
    done = write_captions([put(tmp_path / "a.png", (2048, 512))], sizes)
    assert list(done.written.values()) == ["1024 by 256"]


def test_a_data_set_gets_no_caption_files(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match="This is a data set of `datasets`"):
        find_uncaptioned(tmp_path)
