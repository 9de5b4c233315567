"""Data sets against plain folders of the same pictures: what is trained on is equal to the bit."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Image as ImageType
from PIL import Image
from pyarrow import parquet

from finetune.config import DataSection, PairsSection
from finetune.data import Folder, PairSource, PictureSource, scan_folder, scan_pairs
from finetune.data.rows import is_dataset, list_rows
from finetune.errors import DataError
from tests.data.conftest import painted
from tests.data.rows.made import FORMS, LISTS, STRUCT, cells, dataset, of_folder

if TYPE_CHECKING:
    from finetune.backbones import Backbone


def saved(place: Path, columns: dict[str, list[Any]], **types: Any) -> Path:
    types = {"image": ImageType()} | types
    dataset(columns, **types).save_to_disk(str(place))
    return place


def tabled(place: Path, images: list[Any], **columns: list[Any]) -> Path:
    """Parquet that nothing has been embedded into."""
    place.mkdir()
    columns["image"] = pa.array(images, STRUCT)
    parquet.write_table(pa.table(columns), place / "rows.parquet")
    return place


def facts(folder: Folder) -> list[tuple[Any, ...]]:
    return [(p.digest, p.captions, p.width, p.height, p.background, p.captioned) for p in folder.pictures]


def assert_same_batches(one: PictureSource, other: PictureSource) -> None:
    for a, b in zip(one.batches(range(12)), other.batches(range(12)), strict=True):
        assert a.numbers == b.numbers
        assert torch.equal(a.latents, b.latents)
        assert torch.equal(a.conditioning.hidden, b.conditioning.hidden)
        for x, y in ((a.mask, b.mask), (a.conditioning.control, b.conditioning.control)):
            assert (x is None and y is None) or torch.equal(x, y)


@pytest.mark.parametrize("family", ["sd1"])
@pytest.mark.parametrize("form", FORMS)
def test_a_data_set_is_as_the_folder_of_its_pictures(
    form: str, mycat: Path, tmp_path: Path, backbone: Backbone
) -> None:
    place = FORMS[form](of_folder(mycat), tmp_path / "set", mycat)
    assert is_dataset(place)
    data = DataSection(buckets=False)
    folder, rows = scan_folder(mycat, "a pet", data), scan_folder(place, "a pet", data)
    assert facts(rows) == facts(folder)
    assert rows.path == place and not rows.skipped
    assert any("2 pictures with a caption, the others get the prompt" in note for note in rows.notes)
    known = form not in ("Parquet of bytes", "Parquet of paths")
    names = [f"{i}.png" if known else f"train[{i}]" for i in range(5)]
    names = [f"../files/{i}.png" for i in range(5)] if form == "Parquet of paths" else names
    assert [p.name for p in rows.pictures] == names
    assert_same_batches(*(PictureSource(one, backbone, data, seed=3) for one in (folder, rows)))


def test_without_captions_the_name_of_the_data_set_is_the_trigger_word(tmp_path: Path) -> None:
    painted(8, 8).save(tmp_path / "1.png")
    place = saved(tmp_path / "tabby", {"image": cells([tmp_path / "1.png"])})
    assert scan_folder(place).pictures[0].caption == "a photo of tabby"
    (tmp_path / "one").mkdir()
    dataset({"image": cells([tmp_path / "1.png"])}, image=ImageType()).to_parquet(
        tmp_path / "one" / "tom.parquet"
    )
    assert scan_folder(tmp_path / "one" / "tom.parquet").pictures[0].caption == "a photo of tom"


def test_rows_are_called_as_their_files_unless_two_are_or_none_is(tmp_path: Path) -> None:
    paths = ["a/1.png", "/home/me/2.png", None, "b.png", "b.png", "line\nbreak.png"]
    images = []
    for number, path in enumerate(paths):
        painted(8, 8, number).save(tmp_path / "1.png")
        images.append({"bytes": (tmp_path / "1.png").read_bytes(), "path": path})
    found = scan_folder(tabled(tmp_path / "set", images))
    named = ["a/1.png", "2.png", "train[2]", "train[3]", "train[4]", "line\\nbreak.png"]
    assert [p.name for p in found.pictures] == named
    assert str(found.pictures[3].origin) == f"{tmp_path / 'set'}: train[3].image"


def test_rows_that_cannot_be_used_are_named_with_the_reason_and_the_rest_is_used(tmp_path: Path) -> None:
    painted(40, 32).save(tmp_path / "1.png")
    intact = (tmp_path / "1.png").read_bytes()
    images = [
        {"bytes": intact, "path": None},
        None,
        {"bytes": None, "path": "https://example.org/1.png"},
        {"bytes": b"", "path": None},
        {"bytes": intact[:-40], "path": None},
        {"bytes": None, "path": "gone.png"},
        {"bytes": intact, "path": None},
    ]
    texts = ["a", "b", "c", "d", "e", "f", "long " * 3000]
    found = scan_folder(tabled(tmp_path / "set", images, text=texts))
    assert [p.name for p in found.pictures] == ["train[0]"]
    reasons = {s.name: s.reason for s in found.skipped}
    assert reasons.keys() == {"train[1]", "1.png", "train[3]", "train[4]", "gone.png", "train[6]"}
    assert reasons["train[1]"] == "its image is missing"
    assert "is an address" in reasons["1.png"]
    assert reasons["train[3]"] == "the file is empty"
    assert "truncated" in reasons["train[4]"]
    assert "it is not there" in reasons["gone.png"]
    assert "longer than 10,000 characters" in reasons["train[6]"]


def test_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)None of the pictures can be used.*its image is missing"):
        scan_folder(saved(tmp_path / "nulls", {"image": [None, None]}))
    with pytest.raises(DataError, match="corresponds to no data"):
        scan_folder(tabled(tmp_path / "set", [None]), data=DataSection(split="train[:0]"))


def test_pictures_are_decoded_by_us(tmp_path: Path) -> None:
    """16 bits, of which Pillow's own conversion keeps the wrong ones, and transparency."""
    folder = tmp_path / "files"
    folder.mkdir()
    deep = np.linspace(0, 4095, 64 * 64, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(deep).save(folder / "deep.png")
    glass = painted(40, 32).convert("RGBA")
    glass.putalpha(100)
    glass.save(folder / "glass.png")
    place = saved(tmp_path / "set", {"image": cells(sorted(folder.glob("*")))})
    data = DataSection(background="gray")
    files, rows = scan_folder(folder, "x", data), scan_folder(place, "x", data)
    assert facts(files) == facts(rows)
    told = [{note for note in found.notes if ".png" in note} for found in (files, rows)]
    assert told[0] == told[1] and len(told[0]) >= 2
    for a, b in zip(files.pictures, rows.pictures, strict=True):
        assert a.read().tobytes() == b.read().tobytes()


def test_several_captions_lines_and_triggers(tmp_path: Path) -> None:
    painted(8, 8).save(tmp_path / "1.png")
    image = cells([tmp_path / "1.png"])
    said = ["a cat", "a  pet", None, "a cat"]
    listed = saved(tmp_path / "listed", {"image": image, "captions": [said]}, captions=LISTS)
    assert scan_folder(listed).pictures[0].captions == ("a cat", "a pet", "a cat")
    lines = saved(tmp_path / "lines", {"image": image, "text": ["a cat\na pet"]})
    assert scan_folder(lines).pictures[0].captions == ("a cat a pet",)
    assert scan_folder(lines, data=DataSection(captions="lines")).pictures[0].captions == ("a cat", "a pet")
    trigger = saved(tmp_path / "sks", {"image": image, "text": ["[trigger] on snow"]})
    assert scan_folder(trigger).pictures[0].captions == ("sks on snow",)


def test_columns_without_a_use_and_settings_without_one_are_told(mycat: Path, tmp_path: Path) -> None:
    rows = scan_folder(FORMS["save_to_disk"](of_folder(mycat), tmp_path / "set", mycat))
    assert "columns that are not used: label" in rows.notes
    painted(8, 8).save(tmp_path / "1.png")
    rows = scan_folder(saved(tmp_path / "titles", {"image": cells([tmp_path / "1.png"]), "title": ["a cat"]}))
    assert "columns that are not used: title; data.caption_column names that of the captions" in rows.notes
    data = DataSection(split="test", image_column="image")
    notes = scan_folder(mycat, data=data).notes
    assert "data.split has no effect on a folder of pictures" in notes
    assert "data.image_column has no effect on a folder of pictures" in notes


@pytest.mark.parametrize("family", ["sd1"])
def test_masks(mycat: Path, tmp_path: Path, backbone: Backbone) -> None:
    pictures = sorted(mycat.glob("*.png"))
    for number, file in enumerate(pictures):
        with Image.open(file) as picture:
            painted(*picture.size, 10 + number).convert("L").save(mycat / f"{file.stem}-masklabel.png")
    masks = sorted(mycat.glob("*-masklabel.png"))
    columns = {"image": cells(pictures), "mask": cells(masks)}
    place = saved(tmp_path / "set", columns, mask=ImageType())
    data = DataSection(mask="files")
    folder, rows = scan_folder(mycat, "x", data), scan_folder(place, "x", data)
    (mycat / "1.txt").unlink()
    (mycat / "3.txt").unlink()
    folder = scan_folder(mycat, "x", data)
    assert facts(folder) == facts(rows)
    assert_same_batches(*(PictureSource(one, backbone, data, seed=3) for one in (folder, rows)))
    assert "masks beside pictures are not used" in " ".join(scan_folder(place).notes)
    columns["mask"][2] = None
    place = saved(tmp_path / "hole", columns, mask=ImageType())
    assert len(scan_folder(place).pictures) == 5
    with pytest.raises(DataError, match=r"without a mask of the same name: 2\.png"):
        PictureSource(scan_folder(place, "x", data), backbone, data, seed=3)


@pytest.mark.parametrize("family", ["sd1"])
def test_pairs(tmp_path: Path, backbone: Backbone) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    lines = []
    for number in range(5):
        painted(40, 32, number).save(folder / f"{number}.png")
        painted(20, 16, 10 + number).save(folder / f"edges{number}.png")
        line = '{{"file_name": "{0}.png", "conditioning_image": "edges{0}.png", "text": "cat {0}"}}\n'
        lines.append(line.format(number))
    (folder / "metadata.jsonl").write_text("".join(lines))
    columns = {
        "image": cells([folder / f"{i}.png" for i in range(5)]),
        "conditioning_image": [*cells([folder / f"edges{i}.png" for i in range(5)])],
        "text": [f"cat {i}" for i in range(5)],
    }
    place = saved(tmp_path / "set", columns, conditioning_image=ImageType())
    found = [scan_pairs(PairsSection(data_dir=one)) for one in (folder, place)]
    assert facts(found[0]) == facts(found[1])
    assert [p.digest for p in found[0].controls] == [p.digest for p in found[1].controls]
    section = PairsSection(buckets=False)
    assert_same_batches(*(PairSource(one, backbone, section, seed=3) for one in found))

    columns["conditioning_image"][2] = None
    place = saved(tmp_path / "hole", columns, conditioning_image=ImageType())
    (skipped,) = scan_pairs(PairsSection(data_dir=place)).skipped
    assert (skipped.name, skipped.reason) == ("2.png", "its conditioning_image is missing")
    made = scan_pairs(PairsSection(data_dir=place, preprocess="edges"))
    assert len(made.pictures) == 5 and made.controls == made.pictures
    assert "columns that are not used: conditioning_image" in made.notes
    del columns["conditioning_image"]
    with pytest.raises(DataError, match="The pictures have no control pictures"):
        scan_pairs(PairsSection(data_dir=saved(tmp_path / "none", columns)))


def test_what_is_a_data_set(mycat: Path, tmp_path: Path) -> None:
    assert not is_dataset(mycat) and not is_dataset(tmp_path / "not there")
    table = of_folder(mycat)
    table.to_parquet(mycat / "metadata.parquet")
    assert not is_dataset(mycat)  # Hugging Face's imagefolder
    table.to_parquet(mycat / "more.parquet")
    assert not is_dataset(mycat)
    for picture in mycat.glob("*.png"):
        picture.unlink()
    assert is_dataset(mycat) and is_dataset(mycat / "more.parquet")
    (mycat / "more.parquet").rename(mycat / ".more.parquet")
    assert not is_dataset(mycat)


def test_the_pictures_stay_on_disk(tmp_path: Path) -> None:
    """Of 64 MB of pictures only those being read are in memory, and in the end none is."""
    noise = np.random.default_rng(0)
    files = []
    for number in range(16):
        file = tmp_path / f"{number}.bmp"
        Image.fromarray(noise.integers(0, 256, (1000, 1334, 3), dtype=np.uint8)).save(file)
        files.append(file)
    place = saved(tmp_path / "set", {"image": cells(files)})
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    listed = list_rows(place, DataSection())
    assert len(listed.found) == 16
    assert tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before < 4_000_000
    found = scan_folder(place, "x")
    assert tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before < 4_000_000
    tracemalloc.stop()
    assert len(found.pictures) == 16


def test_rows_are_read_in_any_order_from_several_threads(mycat: Path, tmp_path: Path) -> None:
    found = scan_folder(FORMS["save_to_disk"](of_folder(mycat), tmp_path / "set", mycat))
    expected = [(mycat / f"{i}.png").read_bytes() for i in range(5)]
    order = np.random.default_rng(0).integers(0, 5, 400)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: found.pictures[i].origin.read_bytes(), order))
    assert read == [expected[i] for i in order]
    assert len({hash(p.origin) for p in found.pictures}) == 5
