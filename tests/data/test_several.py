"""Several folders as one: names, notes, captions that vary by folder, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.backbones import Backbone
from finetune.config import CaptionsSection, DataSection, PairsSection, SubjectSection
from finetune.data import PictureSource, scan_class_sources, scan_folder, scan_folders, scan_paired_folders
from finetune.data.doctor import examine
from finetune.data.doctor.finding import DataSet
from finetune.data.folder import Folder
from finetune.data.layouts.kohya import class_tokens
from finetune.data.masks import Masks
from finetune.data.read import Reader
from finetune.errors import DataError
from tests.data.conftest import painted, square_view
from tests.tiny import only


def make(folder: Path, *names: str, first: int = 0) -> Path:
    """Pictures, each of another seed; `name=text` also writes a caption."""
    for number, name in enumerate(names, start=first):
        file, _, text = name.partition("=")
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        painted(40, 40, number).save(path)
        if text:
            path.with_suffix(".txt").write_text(text)
    return folder


def scanned(main: Path | None, *sources: dict[str, Any], **data: Any) -> Folder:
    return scan_folders(main, None, DataSection(sources=sources, **data))  # type: ignore[arg-type]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of three and one of two pictures, all with captions."""
    return (
        make(tmp_path / "cats", "1.png=red cat", "2.png=blue cat", "3.png=big cat"),
        make(tmp_path / "dogs", "1.png=red dog", "in/2.png=old dog", first=10),
    )


def test_without_further_folders_nothing_changes(two: tuple[Path, Path]) -> None:
    assert scanned(two[0]) == scan_folder(two[0])


def test_names_repeats_and_notes_tell_their_folder(two: tuple[Path, Path]) -> None:
    (two[1] / "broken.png").write_bytes(b"\x89PNG no more")
    folder = scanned(two[0], {"dir": two[1], "repeats": 3})
    assert [(p.name, p.repeats, p.caption) for p in folder.pictures] == [
        ("cats/1.png", 1, "red cat"),
        ("cats/2.png", 1, "blue cat"),
        ("cats/3.png", 1, "big cat"),
        ("dogs/1.png", 3, "red dog"),
        ("dogs/in/2.png", 3, "old dog"),
    ]
    assert [skip.name for skip in folder.skipped] == ["dogs/broken.png"]
    assert folder.notes == ("dogs: 1 picture from subfolders (data.nested): in",)
    assert folder.places == f"{two[0]}, {two[1]}"


def test_repeats_multiply_those_of_kohyas_folders(tmp_path: Path) -> None:
    assert class_tokens("4_sks dog") == (4, "sks dog")
    folder = scanned(None, {"dir": make(tmp_path / "x", "4_sks dog/1.png", "2.png"), "repeats": 3})
    assert [(p.name, p.repeats) for p in folder.pictures] == [("x/2.png", 3), ("x/4_sks dog/1.png", 12)]


def test_folders_of_one_name_are_told_apart_by_more_of_their_path(tmp_path: Path) -> None:
    names = [make(tmp_path / place, "1.png", first=n) for n, place in enumerate(["a/img", "b/img", "c"])]
    folder = scanned(names[0], {"dir": names[1]}, {"dir": names[2]})
    assert [p.name for p in folder.pictures][:2] == ["a/img/1.png", "b/img/1.png"]
    assert folder.pictures[2].name.endswith("/c/1.png")


def test_a_folder_inside_another_counts_once(tmp_path: Path) -> None:
    outer = make(tmp_path / "outer", "1.png", "inner/2.png")
    for main, further in ((outer, outer / "inner"), (outer / "inner", outer)):
        data = SubjectSection(instance_dir=main, sources=[{"dir": further}])  # type: ignore[list-item]
        folder = scan_folders(main, None, data)
        assert sorted(p.name for p in folder.pictures) == ["inner/2.png", "outer/1.png"]
        assert any(note.startswith("outer: not searched for pictures: inner") for note in folder.notes)


def test_copies_are_found_in_all_folders_and_told_once(tmp_path: Path) -> None:
    a = make(tmp_path / "a", "1.png=x", first=1)
    make(tmp_path / "a", "2.png=x", first=1)
    b = make(tmp_path / "b", "3.png=x", first=1)
    assert scanned(a, {"dir": b}).notes == (
        "a/2.png is the same file as a/1.png; both are used",
        "b/3.png is the same file as a/1.png; both are used",
    )


def test_pictures_without_a_caption_get_the_prompt_of_their_folder(tmp_path: Path) -> None:
    names = [make(tmp_path / name, "1.png", first=n) for n, name in enumerate("abc")]
    further = ({"dir": names[1], "prompt": "a photo of sks"}, {"dir": names[2]})
    folder = scan_folders(names[0], "the main one", DataSection(sources=further))  # type: ignore[arg-type]
    assert [p.caption for p in folder.pictures] == ["the main one", "a photo of sks", "a photo of c"]
    assert not any(p.captioned for p in folder.pictures)


def source(folder: Folder, backbone: Backbone, captions: CaptionsSection, **data: Any) -> PictureSource:
    section = DataSection(buckets=False, resolution=32, **data)
    made = PictureSource(folder, backbone, section, 5, True, captions=captions)  # batches carry tokens
    made.prepare()
    return made


def tokens(backbone: Backbone, text: str) -> list[Any]:
    return backbone.tokenize([text]).tolist()  # type: ignore[no-any-return]


def test_affixes_and_dropout_are_those_of_the_folder(two: tuple[Path, Path], backbone: Backbone) -> None:
    folder = scanned(two[0], {"dir": two[1], "prefix": "old", "caption_dropout": 0.5})
    captions = CaptionsSection(prefix="new", suffix="end")
    made = source(folder, backbone, captions)
    expected = [
        "new red cat end",
        "new blue cat end",
        "new big cat end",
        "old red dog end",
        "old old dog end",
    ]
    assert made.captions() == expected
    seen: Counter[tuple[str, str]] = Counter()
    known = {text: tokens(backbone, text) for text in ["", *expected]}
    for number in range(100):
        batch = only(made.batches([number]))
        assert batch.conditioning.tokens is not None
        (text,) = [text for text, ids in known.items() if ids == batch.conditioning.tokens.tolist()]
        seen[Path(batch.names[0]).relative_to(two[0].parent).parts[0], text] += 1
    assert {text for place, text in seen if place == "cats"} == set(expected[:3])
    assert {text for place, text in seen if place == "dogs"} == {"", *expected[3:]}
    dogs = sum(number for (place, _), number in seen.items() if place == "dogs")
    assert dogs == 40 and 10 < seen["dogs", ""] < 30


def test_a_folder_may_be_spared_from_the_dropout_of_all(two: tuple[Path, Path], backbone: Backbone) -> None:
    folder = scanned(two[0], {"dir": two[1], "caption_dropout": 0.0, "prefix": "", "suffix": ""})
    captions = CaptionsSection(prefix="new", suffix="end")
    made = source(folder, backbone, captions, caption_dropout=1.0)
    empty = tokens(backbone, "")
    for number in range(10):
        batch = only(made.batches([number]))
        assert batch.conditioning.tokens is not None
        assert (batch.conditioning.tokens.tolist() == empty) == (str(two[0]) in batch.names[0])
    assert made.captions()[3:] == ["red dog", "old dog"]


def test_the_digest_knows_whatever_differs(two: tuple[Path, Path], backbone: Backbone) -> None:
    changes: list[dict[str, Any]] = [{}, {"repeats": 2}, {"share": 0.4}, {"prefix": "x"}, {"suffix": "x"}]
    changes += [{"caption_dropout": 0.1}, {"share": 0.41}]
    folders = [scanned(two[0], {"dir": two[1], **change}) for change in changes]
    section = DataSection(buckets=False, resolution=32)
    digests = [PictureSource(folder, backbone, section, 5).digest() for folder in folders]
    assert len(set(digests)) == len(changes)


def test_the_summary_names_all_folders_and_the_shares(two: tuple[Path, Path], backbone: Backbone) -> None:
    said = source(scanned(two[0], {"dir": two[1], "share": 0.5}), backbone, CaptionsSection()).summary()
    assert said[0] == f"5 pictures from {two[0]}, {two[1]}, at 32x32 pixels"
    assert said[1] == f"an epoch has 6 samples: 3 of {two[0]} (50%), 3 of {two[1]} (50%)"


def test_class_pictures_are_not_of_the_subject_and_need_a_caption(two: tuple[Path, Path]) -> None:
    cats, dogs = two
    entry = {"dir": dogs, "class_pictures": True}
    data = SubjectSection(instance_dir=cats, sources=[entry])  # type: ignore[list-item]
    assert scan_folders(cats, None, data) == scan_folder(cats, None, data)
    ((_, classes),) = scan_class_sources(data, Reader())
    assert [p.caption for p in classes.pictures] == ["red dog", "old dog"]
    (dogs / "1.txt").unlink()
    with pytest.raises(DataError, match=r"Class pictures without a caption: 1\.png") as told:
        scan_class_sources(data, Reader())
    assert told.value.where == str(dogs)
    prompted = SubjectSection(sources=[{**entry, "prompt": "a dog"}])  # type: ignore[list-item]
    for section in (data.model_copy(update={"class_prompt": "a dog"}), prompted):
        ((_, classes),) = scan_class_sources(section, Reader())
        assert [p.caption for p in classes.pictures] == ["a dog", "old dog"]
    kohyas = make(dogs.parent / "reg", "1_dog/1.png")
    data = SubjectSection(sources=[{"dir": kohyas, "class_pictures": True}])  # type: ignore[list-item]
    ((_, classes),) = scan_class_sources(data, Reader())
    assert [p.caption for p in classes.pictures] == ["dog"]


def test_pairs_are_joined_with_their_control_pictures(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", "1.png=x"), make(tmp_path / "b", "1.png", "2.png", first=5)
    edges = make(tmp_path / "edges-a", "1.png", first=20), make(tmp_path / "edges-b", "1.png", first=30)
    further = {"dir": b, "conditioning_dir": edges[1], "prompt": "b"}
    sections = [
        PairsSection(data_dir=a, conditioning_dir=edges[0], sources=[further]),  # type: ignore[list-item]
        PairsSection(sources=[{"dir": a, "conditioning_dir": edges[0]}, further]),  # type: ignore[list-item]
    ]
    for section in sections:
        folder = scan_paired_folders(section)
        assert [(p.name, p.caption) for p in folder.pictures] == [("a/1.png", "x"), ("b/1.png", "b")]
        assert [p.origin for p in folder.controls] == [edges[0] / "1.png", edges[1] / "1.png"]
        assert [s.name for s in folder.skipped] == ["b/2.png"]
    gone = PairsSection(data_dir=a, preprocess="grayscale", sources=[{"dir": "no"}])  # type: ignore[list-item]
    with pytest.raises(DataError, match="no such folder") as told:
        scan_paired_folders(gone)
    assert told.value.where == "data.sources = no"


def test_masks_of_all_folders_are_in_one(two: tuple[Path, Path], tmp_path: Path) -> None:
    folder = scanned(two[0], {"dir": two[1]})
    for number, name in enumerate(["cats/1", "dogs/1", "cats/2", "3", "dogs/in/2"]):
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40), 55 + 50 * number).save(tmp_path / "masks" / f"{name}.png")
    masks = Masks(folder.pictures, DataSection(mask_dir=tmp_path / "masks"), 8)
    rows = masks.rows([square_view(picture) for picture in range(5)])
    assert [round(float(row.mean()) * 255) for row in rows] == [55, 155, 205, 105, 255]


def test_the_doctor_judges_captions_by_folder(tmp_path: Path) -> None:
    cats = make(tmp_path / "cats", "1.png=sks cat", "2.png=a cat", "3.png=sks", first=0)
    dogs = make(tmp_path / "dogs", "4.png", first=5)
    birds = make(tmp_path / "birds", "5.png=a bird", "6.png", "lost.png=x", first=7)
    (birds / "lost.png").unlink()
    folder = scanned(cats, {"dir": dogs, "prompt": "a dog"}, {"dir": birds, "prompt": ""})
    found = {f.name: f for f in examine(DataSet(folder, trigger="sks", asked=True))}
    assert list(found["untriggered"].files) == ["cats/2.png"]
    assert list(found["uncaptioned"].files) == ["birds/6.png"]
    assert list(found["empty"].files) == ["birds/6.png"]
    assert found["orphans"].severity == "warning" and list(found["orphans"].files) == ["birds/lost.txt"]
    assert not any("empty caption" in f.sentence for f in examine(DataSet(folder)) if f.name == "folder")
