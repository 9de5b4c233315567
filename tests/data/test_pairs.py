"""Pairs of pictures and control pictures: what belongs together, what cannot be used, what batches hold."""

from __future__ import annotations

import errno
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.config import PairsSection
from finetune.data import PairSource, PictureSource, scan_pairs
from finetune.data.cache import ContentCache, content_key
from finetune.data.control import control_pixels
from finetune.data.controls import Controls
from finetune.data.preprocess import cut_out, place
from finetune.diffusion.random import uniform
from finetune.errors import ConfigError, DataError
from tests.data.conftest import painted, square_view, squares
from tests.data.entries import entries
from tests.tiny import only

if TYPE_CHECKING:
    from finetune.backbones import Backbone

SIZES = [(48, 32), (32, 48), (40, 40)]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder with a metadata.jsonl: three pictures and their control pictures, one of half the size."""
    folder = tmp_path / "pairs"
    (folder / "edges").mkdir(parents=True)
    lines = []
    for i, (width, height) in enumerate(SIZES):
        painted(width, height, i).save(folder / f"{i}.png")
        scale = 2 if i == 1 else 1
        painted(width // scale, height // scale, 10 + i).save(folder / "edges" / f"{i}.png")
        lines.append({"file_name": f"{i}.png", "conditioning_image": f"edges/{i}.png", "text": f"cat {i}"})
    write_lines(folder, *lines)
    return folder


def write_lines(folder: Path, *lines: dict[str, Any]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_metadata(pairs: Path) -> None:
    found = scan_pairs(PairsSection(data_dir=pairs))
    assert [p.name for p in found.pictures] == ["0.png", "1.png", "2.png"]
    assert [c.name for c in found.controls] == [f"edges/{i}.png" for i in range(3)]
    assert [p.caption for p in found.pictures] == ["cat 0", "cat 1", "cat 2"]
    assert found.notes == () and found.skipped == ()


@pytest.mark.parametrize(
    ("picture", "control", "text"),
    [("image", "conditioning_image", "text"), ("file_name", "conditioning_image_file_name", "caption"),
     ("image_file_name", "control", "prompt")],
)  # fmt: skip
def test_names_of_columns(pairs: Path, picture: str, control: str, text: str) -> None:
    names = {"file_name": picture, "conditioning_image": control, "text": text}
    write_lines(pairs, *({names[k]: v for k, v in line.items()} | {"id": 3} for line in lines_of(pairs)))
    found = scan_pairs(PairsSection(data_dir=pairs))
    assert [p.caption for p in found.pictures] == ["cat 0", "cat 1", "cat 2"]
    assert len(found.controls) == 3
    assert found.notes == ("not used in metadata.jsonl: id",)


def test_two_folders(pairs: Path, tmp_path: Path) -> None:
    (pairs / "metadata.jsonl").unlink()
    (pairs / "edges").rename(tmp_path / "edges")
    (tmp_path / "edges" / "2.png").rename(tmp_path / "edges" / "3.png")
    (pairs / "0.txt").write_text("a red cat")
    section = PairsSection(data_dir=pairs, conditioning_dir=tmp_path / "edges")
    found = scan_pairs(section)
    assert [(p.name, Path(c.name).name) for p, c in zip(found.pictures, found.controls, strict=True)] == [
        ("0.png", "0.png"),
        ("1.png", "1.png"),
    ]
    assert [p.caption for p in found.pictures] == ["a red cat", ""]
    assert [(s.path.name, "no control picture" in s.reason) for s in found.skipped] == [("2.png", True)]
    assert any("without a picture of the same name: 3.png" in note for note in found.notes)
    assert "empty caption: 1.png" in found.notes
    named = scan_pairs(section.model_copy(update={"prompt": "a cat"}))
    assert [p.caption for p in named.pictures] == ["a red cat", "a cat"]


def test_made_from_the_pictures(pairs: Path) -> None:
    write_lines(pairs, *({k: line[k] for k in ("file_name", "text")} for line in lines_of(pairs)))
    found = scan_pairs(PairsSection(data_dir=pairs, preprocess="grayscale"))
    assert found.controls == found.pictures


def test_pictures_left_out_are_named(pairs: Path) -> None:
    (pairs / "edges" / "0.png").write_bytes(b"\x89PNG no more")
    (pairs / "edges" / "1.png").unlink()
    painted(40, 40, 9).save(pairs / "unlisted.png")
    found = scan_pairs(PairsSection(data_dir=pairs))
    assert [s.name for s in found.skipped] == ["0.png", "1.png", "unlisted.png"]
    assert all("its control picture edges/" in s.reason for s in found.skipped[:2])
    assert "no line of metadata.jsonl names it" in found.skipped[2].reason


def other_shape(folder: Path) -> None:
    painted(40, 30, 1).save(folder / "edges" / "2.png")


def no_control_named(folder: Path) -> None:
    write_lines(folder, {"file_name": "0.png"})


def some_without_control(folder: Path) -> None:
    write_lines(folder, *lines_of(folder)[:2], {"file_name": "2.png", "text": "x"})


def no_picture_named(folder: Path) -> None:
    write_lines(folder, {"text": "a cat"})


def not_json(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(
        '\n{"file_name": "0.png", "conditioning_image": "edges/0.png"}\n\n0.png'
    )


def not_utf8(folder: Path) -> None:
    (folder / "metadata.jsonl").write_bytes('{"file_name": "Kätzchen.png"}'.encode("latin-1"))


def not_text(folder: Path) -> None:
    write_lines(folder, {"file_name": 0, "conditioning_image": "edges/0.png"})


def nothing_left(folder: Path) -> None:
    for file in (folder / "edges").iterdir():
        file.unlink()


def no_metadata(folder: Path) -> None:
    (folder / "metadata.jsonl").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_shape, r"2\.png \(40x40\) and edges/2\.png \(40x30\)"),
        (no_control_named, "No line of metadata.jsonl names a control picture"),
        (some_without_control, r"no `conditioning_image`: 2\.png\."),
        (no_picture_named, "names no picture.\n.*line 1"),
        (not_json, "not a JSON object.\n.*line 4"),
        (not_utf8, "cannot be read: it is not UTF-8 text"),
        (not_text, "`file_name` is not a string"),
        (nothing_left, "None of the pairs"),
        (no_metadata, "no control pictures"),
    ],
)
def test_faults(pairs: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(pairs)
    with pytest.raises(DataError, match=message) as caught:
        scan_pairs(PairsSection(data_dir=pairs))
    assert caught.value.fix


def test_metadata_that_may_not_be_read(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)  # root may read everything
    with pytest.raises(DataError, match="metadata cannot be read: Permission denied"):
        scan_pairs(PairsSection(data_dir=pairs))


def test_metadata_is_read_once(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    reads = Path.read_text

    def counted(path: Path, **options: Any) -> str:
        read.append(path)
        return reads(path, **options)

    monkeypatch.setattr(Path, "read_text", counted)
    assert len(scan_pairs(PairsSection(data_dir=pairs)).pictures) == 3
    assert read == [pairs / "metadata.jsonl"]


def test_blank_lines_are_skipped(pairs: Path) -> None:
    before = scan_pairs(PairsSection(data_dir=pairs))
    lines = (pairs / "metadata.jsonl").read_text().splitlines()
    (pairs / "metadata.jsonl").write_text("\n" + "\n \n\n".join(lines) + "\n\n")
    assert scan_pairs(PairsSection(data_dir=pairs)) == before


def test_control_pictures_given_twice(pairs: Path) -> None:
    for other in ({"preprocess": "edges"}, {"conditioning_dir": pairs / "edges"}):
        with pytest.raises(DataError, match="given twice"):
            scan_pairs(PairsSection(data_dir=pairs, **other))  # type: ignore[arg-type]
    (pairs / "metadata.jsonl").unlink()
    painted(8, 8).save(pairs / "edges" / "0.jpg")
    with pytest.raises(DataError, match="Two control pictures"):
        scan_pairs(PairsSection(data_dir=pairs, conditioning_dir=pairs / "edges"))


VIEWS = [square_view(0), square_view(0, mirrored=True), square_view(1, at=(0.9, 0.3)), square_view(2)]


@pytest.mark.parametrize("cached", [False, True])
def test_controls_are_cut_as_the_pictures(pairs: Path, cached: bool, tmp_path: Path) -> None:
    section = PairsSection(data_dir=pairs)
    found = scan_pairs(section)
    cache = ContentCache(tmp_path / "cache") if cached else None
    for _ in range(1 + cached):  # the second time from the cache
        rows = Controls(found, section, cache).rows(VIEWS)
        assert rows.shape == (4, 3, 32, 32) and rows.dtype == torch.float32
        for row, view in zip(rows, VIEWS, strict=True):
            picture, control = found.pictures[view.picture], found.controls[view.picture]
            cut = place((picture.height, picture.width), (32, 32), at=view.at, mirrored=view.mirrored)
            expected = cut_out(Image.open(control.origin), cut) / 2 + 0.5
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-6)
    if cache:
        cache.flush()
    assert len(entries(tmp_path / "cache")) == (4 if cached else 0)


@pytest.mark.parametrize("flip", [False, True])
def test_what_is_prepared_is_all_that_is_needed(pairs: Path, flip: bool, tmp_path: Path) -> None:
    section = PairsSection(data_dir=pairs)
    controls = Controls(scan_pairs(section), section, cache := ContentCache(tmp_path / "cache"))
    controls.prepare(squares(3, flip))
    assert len(made := entries(tmp_path / "cache")) == 3 * (1 + flip)
    controls.rows(squares(3, flip))
    cache.flush()
    assert entries(tmp_path / "cache") == made
    Controls(scan_pairs(section), section).prepare(squares(3, flip))  # with no cache there is nothing to do


def test_made_controls_follow_the_view(pairs: Path) -> None:
    (pairs / "metadata.jsonl").unlink()
    section = PairsSection(data_dir=pairs, preprocess="edges")
    found = scan_pairs(section)
    row, mirrored = Controls(found, section).rows([square_view(0), square_view(0, mirrored=True)])
    picture = found.pictures[0]
    square = cut_out(Image.open(pairs / picture.name), place((picture.height, picture.width), (32, 32)))
    levels = ((square + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert torch.equal(row, torch.from_numpy(control_pixels(levels, "edges")).permute(2, 0, 1) / 255)
    assert torch.equal(mirrored, row.flip(-1))


def test_the_digest_is_what_it_always_was(pairs: Path) -> None:
    # A run that was begun is known by it.
    section = PairsSection(data_dir=pairs)
    digests = [hashlib.sha256((pairs / "edges" / f"{i}.png").read_bytes()).hexdigest() for i in range(3)]
    assert Controls(scan_pairs(section), section).digest() == content_key("controls", "none", *digests)


def test_digest_tells_what_matters(pairs: Path) -> None:
    section = PairsSection(data_dir=pairs)
    before = Controls(scan_pairs(section), section).digest()
    painted(48, 32, 77).save(pairs / "edges" / "0.png")
    assert Controls(scan_pairs(section), section).digest() != before
    (pairs / "metadata.jsonl").unlink()
    kinds = [PairsSection(data_dir=pairs, preprocess=kind) for kind in ("edges", "grayscale")]
    assert len({Controls(scan_pairs(kind), kind).digest() for kind in kinds}) == 2


def source(pairs: Path, backbone: Backbone, **changes: Any) -> PairSource:
    section = PairsSection(data_dir=pairs, resolution=32, **{"buckets": False} | changes)
    return PairSource(scan_pairs(section), backbone, section, seed=3)


@pytest.mark.parametrize("family", ["sd1"])
def test_batches(pairs: Path, backbone: Backbone) -> None:
    whole = source(pairs, backbone, flip=True)
    batch = only(whole.batches(range(6)))
    assert batch.conditioning.control is not None
    for row, view_name in zip(batch.conditioning.control, batch.names, strict=True):
        index = int(Path(view_name).stem)
        either = whole.controls.rows([square_view(index), square_view(index, mirrored=True)])
        assert any(torch.equal(row, side) for side in either)
    whole.prepare()
    again = only(whole.batches(range(6)))
    assert torch.equal(again.latents, batch.latents)
    assert again.conditioning.control is not None
    assert torch.equal(again.conditioning.control, batch.conditioning.control)


@pytest.mark.parametrize("family", ["sd1"])
def test_what_is_told_and_shown(pairs: Path, backbone: Backbone) -> None:
    given, heard = source(pairs, backbone), list[tuple[int, int]]()
    given.prepare(lambda done, of: heard.append((done, of)))
    assert heard
    assert not any("made from them" in line for line in given.summary())
    for number in (2, 5):
        shown = given.shown(number)
        assert [caption for caption, _ in shown] == [f"cat {i % 3}" for i in range(number)]
        rows = given.controls.rows([square_view(i % 3) for i in range(number)])
        assert all(torch.equal(control, row) for (_, control), row in zip(shown, rows, strict=True))
    (pairs / "metadata.jsonl").unlink()
    made = source(pairs, backbone, preprocess="grayscale")
    first, *others = PictureSource.summary(made)
    assert others
    assert made.summary() == [first, "control pictures made from them: grayscale", *others]


@pytest.mark.parametrize("family", ["sd1"])
def test_dropped_controls_depend_on_the_sample_alone(pairs: Path, backbone: Backbone) -> None:
    dropping, plain = source(pairs, backbone, control_dropout=0.2), source(pairs, backbone)
    rows, all_rows = (only(s.batches(range(40))).conditioning.control for s in (dropping, plain))
    assert rows is not None and all_rows is not None
    black = rows.flatten(1).sum(1) == 0
    assert torch.equal(black, uniform(3, range(40), "control dropout") < 0.2)
    assert 3 < int(black.sum()) < 15
    assert all_rows.flatten(1).any(1).all()
    assert torch.equal(rows[~black], all_rows[~black])
    parts = [
        only(dropping.batches(range(start, start + 5))).conditioning.control for start in range(0, 40, 5)
    ]
    assert torch.equal(torch.cat([p for p in parts if p is not None]), rows)


def test_edges_are_sobel() -> None:
    step = np.zeros((6, 6, 3), np.uint8)
    step[:, 3:, 1] = 255
    edges = control_pixels(step, "edges")
    assert edges.shape == (6, 6, 3)
    assert (edges[:, 2:4] == 255).all() and (edges[:, [0, 1, 4, 5]] == 0).all()


def test_edges_are_opencvs_sobel() -> None:
    cv2 = pytest.importorskip("cv2")
    smooth = np.asarray(painted(23, 17))
    rough = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)  # steeper than white
    for picture in (smooth, rough):
        steps = [
            cv2.Sobel(
                picture.astype(np.float32), cv2.CV_32F, x, 1 - x, ksize=3, borderType=cv2.BORDER_REPLICATE
            )
            for x in (0, 1)
        ]
        expected = np.hypot(*steps).max(-1) / 4
        assert expected.max() > 20
        edges = control_pixels(picture, "edges")[..., 0]
        assert np.abs(edges - expected.clip(0, 255)).max() <= 0.5 + 1e-3


def test_grey_is_pillows() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).convert("L")).astype(int)
    made = control_pixels(picture, "grayscale")
    assert made.dtype == np.uint8
    assert abs(made[..., 0].astype(int) - expected).max() <= 1
    for level in (0, 255):
        assert (control_pixels(np.full((2, 2, 3), level, np.uint8), "grayscale") == level).all()


def test_canny_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    picture = np.asarray(painted(48, 40))
    thresholds = (20, 60)
    edges = control_pixels(picture, "canny", thresholds)
    assert np.array_equal(edges[..., 0], cv2.Canny(picture, *thresholds))
    assert set(np.unique(edges)) == {0, 255}


def test_canny_without_opencv(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    (pairs / "metadata.jsonl").unlink()
    section = PairsSection(data_dir=pairs, preprocess="canny")
    with pytest.raises(ConfigError, match=r"finetune\[canny\]"):
        Controls(scan_pairs(section), section)
