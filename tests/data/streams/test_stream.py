"""Rows and blocks of a stream, against what tarfile and pyarrow read."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.config import CaptionedSection, DataSection, PairsSection
from finetune.data import scan_folder, scan_pairs
from finetune.data.folder import Folder
from finetune.data.pairs import PairedFolder
from finetune.data.read import Reader
from finetune.data.streams.stream import Block, Cursor, Stream
from finetune.errors import DataError
from tests.data.streams.shards import held, members, png, write_shard, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven samples in three shards; do not write to them."""
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


def opened(folder: Path, data: DataSection | None = None) -> Stream:
    stream = scan_folder(folder, None, data).stream
    assert stream is not None
    return stream


def blocks(stream: Stream, size: int, number: int, seed: int = 0) -> list[Block]:
    """The first blocks, each read at once."""
    found: list[Block] = []
    start, begin = 0, Cursor()
    for _ in range(number):
        block = Block(stream, Reader(), size, seed, start, begin)
        start, begin = start + len(block.folder().pictures), block.end
        found.append(block)
    return found


def names(folder: Folder) -> list[str]:
    return [picture.name for picture in folder.pictures]


def test_an_epoch_has_every_row_once_with_its_own_bytes(shards: Path) -> None:
    inside, stream = held(shards), scan_pairs(PairsSection(data_dir=shards)).stream
    assert stream is not None
    orders = []
    for epoch in range(8):
        rows = list(stream.rows(Cursor(epoch), seed=3))
        found = [f"{place}/{row['png']['path']}" for _, place, row in rows]
        assert sorted(found) == sorted(name for name in inside if name.count(".") == 2 and ".png" in name)
        for _, place, row in rows:
            for column in ("png", "conditioning.png"):
                assert row[column]["bytes"] == inside[f"{place}/{row['__key__']}.{column}"]
            assert row["txt"] == inside[f"{place}/{row['__key__']}.txt"].decode()
        order = list(dict.fromkeys(place for _, place, _ in rows))
        # Rows of a shard follow each other, as they are in it.
        assert found == [name for shard in order for name in sorted(found) if name.startswith(f"{shard}/")]
        orders.append(tuple(order))
    assert len(set(orders)) > 3, "the order of the shards is drawn for each epoch"
    natural = [place for _, place, _ in stream.rows(Cursor(), None)]
    assert natural == ["00.tar"] * 4 + ["01.tar"] * 4 + ["02.tar"] * 3


def test_a_stream_goes_on_from_any_place(shards: Path) -> None:
    stream = opened(shards)
    rows = list(stream.rows(Cursor(2), seed=5))
    for index, (after, _, _) in enumerate(rows):
        assert list(stream.rows(after, seed=5)) == rows[index + 1 :]


def test_blocks_hold_each_picture_once_an_epoch(shards: Path) -> None:
    found = blocks(opened(shards), 4, 6)
    sizes = [len(block.shown) for block in found]
    assert sizes == [4, 4, 3, 4, 4, 3]
    assert [block.start for block in found] == [0, 4, 8, 11, 15, 19]
    for epoch in (found[:3], found[3:]):
        digests = [one.picture.digest for block in epoch for one in block.shown]
        assert len(set(digests)) == len(digests) == 11


@settings(deadline=None, max_examples=10)
@given(size=st.integers(1, 14), steps=st.lists(st.integers(1, 5), min_size=14, max_size=14))
def test_a_block_does_not_depend_on_how_it_is_read(shards: Path, size: int, steps: list[int]) -> None:
    stream = opened(shards)
    for whole in blocks(stream, size, 3):
        slowly = Block(stream, Reader(), size, 0, whole.start, whole.begin)
        for number in (sum(steps[: n + 1]) for n in range(len(steps))):
            slowly.read(number)
        assert names(slowly.folder()) == names(whole.folder())
        assert (slowly.begin, slowly.end) == (whole.begin, whole.end)


def test_what_cannot_be_used_is_named_and_not_counted(tmp_path: Path) -> None:
    broken = {"001.png": b"\x89PNG no more", "001.conditioning.png": members(1)["001.conditioning.png"],
              "001.txt": b"broken"}  # fmt: skip
    bare = {name: data for name, data in members(6).items() if not name.endswith(".txt")}
    without = {name: data for name, data in members(7).items() if name != "007.png"}
    write_shard(tmp_path / "a.tar", [members(0), broken, *(members(n) for n in range(2, 6))])
    write_shard(tmp_path / "b.tar", [bare, without, members(8)])
    stream = opened(tmp_path)
    first, second = blocks(stream, 4, 2)
    (order,) = {tuple(dict.fromkeys(place for _, place, _ in stream.rows(Cursor(), 0)))}
    whole = [n for shard in order for n in ([0, 2, 3, 4, 5] if shard == "a.tar" else [6, 8])]
    captions = [one.picture.caption for block in (first, second) for one in block.shown]
    assert captions == [f"a photo of {tmp_path.name}" if n == 6 else f"picture {n}" for n in whole]
    assert [one.picture.captioned for block in (first, second) for one in block.shown] == [
        n != 6 for n in whole
    ]
    skipped = {s.name: s.reason for block in (first, second) for s in block.skipped}
    assert skipped.keys() == {"a.tar/001.png", "b.tar"}
    assert skipped["b.tar"] == "its column png holds no picture"
    folder = scan_folder(tmp_path)
    assert {s.name for s in folder.skipped} == skipped.keys()
    assert any("1 picture without a caption" in note for note in folder.notes)


def test_pairs(tmp_path: Path) -> None:
    write_shards(tmp_path, 3)
    odd = members(3, **{"conditioning.png": png(Image.new("RGB", (10, 40)))})
    write_shard(tmp_path / "01.tar", [odd, members(4)])
    found = scan_pairs(PairsSection(data_dir=tmp_path))
    assert isinstance(found, PairedFolder) and found.stream is not None
    inside = held(tmp_path)
    for picture, control in zip(found.pictures, found.controls, strict=True):
        stem = picture.name.removesuffix(".png")
        assert picture.origin.read_bytes() == inside[f"{stem}.png"]
        assert control.origin.read_bytes() == inside[f"{stem}.conditioning.png"]
    assert [s.name for s in found.skipped] == ["01.tar/003.png"]
    assert "its control picture is 10x40, but it is 36x32" in found.skipped[0].reason
    made = scan_pairs(PairsSection(data_dir=tmp_path, preprocess="edges"))
    assert isinstance(made, PairedFolder)
    assert made.controls == made.pictures and len(made.pictures) == 5


def test_parquet_is_streamed_if_asked_for(tmp_path: Path, shards: Path) -> None:
    inside = held(shards)
    for shard in range(2):
        own = [inside[f"0{shard}.tar/{n:03}.png"] for n in range(4 * shard, 4 * shard + 4)]
        columns = {
            "image": [{"bytes": data, "path": None} for data in own],
            "text": [[f"one {n}", f"other {n}"] for n in range(4)],
            "score": [0.5] * 4,
        }
        rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
        rows.to_parquet(tmp_path / f"{shard}.parquet")
    assert scan_folder(tmp_path).stream is None
    found = scan_folder(tmp_path, None, CaptionedSection(streaming=True))
    assert found.stream is not None
    assert names(found) == [f"{shard}.parquet[{n}]" for shard in range(2) for n in range(4)]
    assert [p.captions for p in found.pictures[:2]] == [("one 0", "other 0"), ("one 1", "other 1")]
    assert [p.origin.read_bytes() for p in found.pictures] == [
        data
        for name, data in inside.items()
        if name.endswith(".png") and name.count(".") == 2 and name < "02"
    ]
    assert any("columns that are not used: score" in note for note in found.notes)
    alone = scan_folder(tmp_path / "1.parquet", None, CaptionedSection(streaming=True))
    assert [p.digest for p in alone.pictures] == [p.digest for p in found.pictures[4:]]


@pytest.mark.parametrize("given", ["00.tar", "0[01].tar"])
def test_one_shard_or_a_pattern(shards: Path, given: str) -> None:
    files = {"00.tar"} if given == "00.tar" else {"00.tar", "01.tar"}
    assert {name.partition("/")[0] for name in names(scan_folder(shards / given))} == files


def test_the_digest_is_of_the_shards_and_of_how_they_are_read(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    before = opened(folder).digest
    assert opened(folder).digest == before
    assert opened(folder, DataSection(captions="lines")).digest != before
    other = members(10)
    write_shard(folder / "02.tar", [members(8), members(9), {**other, "010.txt": b"picture 1!\n"}])
    assert opened(folder).digest != before


def test_a_folder_of_pictures_with_a_tar_in_it_is_no_stream(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    (folder / "1.png").write_bytes(members(1)["001.png"])
    assert scan_folder(folder).stream is None


def test_faults(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    whole = (folder / "01.tar").read_bytes()
    (folder / "01.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read on") as caught:
        scan_folder(folder)
    assert caught.value.where == "01.tar" and "--resume" in str(caught.value.fix)
    write_shard(tmp_path / "bad" / "0.tar", [{f"{n}.png": b"no picture"} for n in range(3)])
    with pytest.raises(DataError, match=r"(?s)None of the pictures.*0.tar/0.png, 0.tar/1.png, 0.tar/2.png"):
        scan_folder(tmp_path / "bad")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing here that can be read as a stream"):
        scan_folder(tmp_path / "empty", None, DataSection(streaming=True))
    write_shard(tmp_path / "plain" / "0.tar", [{"0.png": members(0)["000.png"]}])
    with pytest.raises(DataError, match=r"hold the control pictures.*png") as caught:
        scan_pairs(PairsSection(data_dir=tmp_path / "plain"))
    assert "data.preprocess" in str(caught.value.fix)
    write_shard(tmp_path / "mixed" / "0.tar", [members(0), {"1.jpg": b"1"}, {"2.webp": b"2"}])
    with pytest.raises(DataError, match="Several columns may be the image: png, jpg, webp"):
        scan_folder(tmp_path / "mixed")
