"""One small folder for each layout: what is found in it, and what is told."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.config import DataSection, PairsSection
from finetune.data import Folder, scan_folder, scan_pairs
from finetune.data.layouts import list_folder, relative_name
from finetune.errors import DataError
from finetune.recipes import build
from finetune.recipes.load import Setting, parse_set
from tests.data.conftest import painted


def make(root: Path, *names: str) -> Path:
    """Writes pictures, each another, and text files with their own content: `NAME=content`."""
    for seed, name in enumerate(names):
        file, _, content = name.partition("=")
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        if content:
            (root / file).write_text(content, encoding="utf-8")
        else:
            painted(8, 8, seed).save(root / file)
    return root


def captions(folder: Folder) -> dict[str, tuple[str, ...]]:
    return {p.name: p.captions for p in folder.pictures}


def repeats(folder: Folder) -> dict[str, int]:
    return {p.name: p.repeats for p in folder.pictures}


def skipped(folder: Folder) -> dict[str, str]:
    return {s.name: s.reason for s in folder.skipped}


def test_caption_files_with_either_suffix_in_any_case(tmp_path: Path) -> None:
    make(tmp_path, "1.png", "1.TXT=one", "2.png", "2.caption=two\nlines", "b/3.jpg", "b/3.Caption=three")
    make(tmp_path, "4.png", "4.txt=four", "4.caption=another")
    folder = scan_folder(tmp_path)
    assert captions(folder) == {
        "1.png": ("one",),
        "2.png": ("two lines",),
        "4.png": ("four",),
        "b/3.jpg": ("three",),
    }
    assert "4.caption not used, since a .txt file of the same name wins" in folder.notes


def test_each_line_is_a_caption_if_asked_for(tmp_path: Path) -> None:
    make(tmp_path, "1.png", "1.txt=a cat\n\n  a  red cat \n", "2.png", "2.txt=a dog", "3.png", "3.txt=\n")
    folder = scan_folder(tmp_path, None, DataSection(captions="lines"))
    assert [p.captions for p in folder.pictures] == [("a cat", "a red cat"), ("a dog",), ("",)]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_metadata_of_hugging_face(tmp_path: Path, form: str) -> None:
    make(tmp_path, "train/1.png", "train/2.png", "train/3.png", "train/edges/1.png", "train/4.png")
    make(tmp_path, "train/4.txt=of its own", "train/5.png", "train/2.txt=other words")
    rows: list[dict[str, Any]] = [
        {"file_name": "1.png", "text": "a cat, sitting", "additional_feature": 3},
        {"file_name": "2.png", "text": "a  dog", "additional_feature": 4},
        {"file_name": "gone.png", "text": "nothing", "additional_feature": 5},
        {"file_name": "1.png", "text": "a red cat", "additional_feature": 6},
        {"file_name": "1.png", "text": "a red cat", "additional_feature": 6},
        {"file_name": "3.png", "text": None, "additional_feature": 7},
    ]
    write_metadata(tmp_path / "train" / f"metadata.{form}", rows)
    folder = scan_folder(tmp_path, "x")
    assert captions(folder) == {
        "train/1.png": ("a cat, sitting", "a red cat", "a red cat"),
        "train/2.png": ("a dog",),
        "train/3.png": ("x",),
        "train/4.png": ("of its own",),
    }
    name = f"train/metadata.{form}"
    unnamed = f"no line of {name} names it, and it has no caption file"
    assert skipped(folder) == {"train/5.png": unnamed, "train/edges/1.png": unnamed}
    assert folder.notes == (
        '3 pictures with a caption, the others get the prompt "x"',
        f"{name} names files that are not there: train/gone.png",
        f"named more than once in {name}, each caption is used: train/1.png",
        f"not used in {name}: additional_feature",
        f"captions both in metadata.{form} and in caption files, the former are used: train/2.png",
        "4 pictures from subfolders (data.nested): train",
    )


def write_metadata(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        quoted = [[str(value or "") for value in row.values()] for row in rows]
        lines = [",".join(rows[0]), *(f'{a},"{b}",{c}' for a, b, c in quoted)]
        path.write_text("\n".join(lines))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)


def test_several_captions_in_a_list(tmp_path: Path) -> None:
    make(tmp_path, "1.png", "2.png")
    rows = [{"image": "1.png", "caption": ["a", "b", "a"]}, {"image": "./2.png", "prompt": "c"}]
    write_metadata(tmp_path / "metadata.jsonl", rows)
    assert captions(scan_folder(tmp_path)) == {"1.png": ("a", "b", "a"), "2.png": ("c",)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "metadata.csv",
            "file_name,text\n1.png,a cat, sitting\n",
            r"more values .*\n.*line 2\n.*quotes",
        ),
        ("metadata.csv", 'file_name,text\n1.png,"a" cat\n', "not CSV"),
        ("metadata.csv", "image_path,text\n1.png,a cat\n", "names no picture"),
        ("metadata.jsonl", '{"file_name": "1.png", "text": 3}', "`text` is not a string, nor a list"),
        ("metadata.jsonl", '{"file_name": "a\\u0000.png"}', "not a string that names a file"),
        ("metadata.jsonl", '{"file_name": "\\ud800.png"}', "not a string that names a file"),
        ("metadata.jsonl", "[" * 100_000, "not a JSON object"),
        ("metadata.parquet", "no parquet", "metadata cannot be read"),
    ],
)
def test_metadata_that_makes_no_sense(tmp_path: Path, name: str, content: str, message: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    make(tmp_path, "1.png", f"{name}={content}")
    with pytest.raises(DataError, match=message) as error:
        scan_folder(tmp_path)
    assert error.value.fix


def test_kohyas_project(tmp_path: Path) -> None:
    make(
        tmp_path, "img/10_sks cat/1.png", "img/10_sks cat/2.png", "img/10_sks cat/2.caption=sks cat, sitting"
    )
    make(tmp_path, "img/3_sks dog/4.png", "img/0_off/5.png", "model/sample/6.png", "reg/1_cat/7.png")
    folder = scan_folder(tmp_path)
    assert captions(folder) == {
        "img/10_sks cat/1.png": ("sks cat",),
        "img/10_sks cat/2.png": ("sks cat, sitting",),
        "img/3_sks dog/4.png": ("sks dog",),
    }
    assert list(repeats(folder).values()) == [10, 10, 3]
    assert skipped(folder) == {
        "img/0_off/5.png": "its folder img/0_off has no repeats",
        "model/sample/6.png": "it is beside img, the folder that kohya's tools train on",
        "reg/1_cat/7.png": "it is one of kohya's regularization pictures",
    }
    assert folder.notes[:2] == (
        "folders of kohya's, with repeats and the caption if there is none: 10_sks cat (10 times an epoch, "
        '"sks cat"), 3_sks dog (3 times an epoch, "sks dog")',
        f"regularization pictures in {tmp_path / 'reg'} are not used; for prior preservation add "
        f"--set data.sources='[{{dir: \"{tmp_path / 'reg'}\", class_pictures: true}}]'",
    )
    (advice,) = shlex.split(folder.notes[1].partition("--set ")[2])
    used = build("lora", [parse_set(advice), Setting("data.instance_dir", tmp_path, "")])
    assert not any("regularization" in note for note in used.scan().notes)
    for inner in ("img", "img/10_sks cat"):
        notes = scan_folder(tmp_path / inner).notes
        assert any(f"regularization pictures in {tmp_path / 'reg'} are not used" in note for note in notes)
    prompted = scan_folder(tmp_path, "a photo of sks")
    assert captions(prompted)["img/10_sks cat/1.png"] == ("a photo of sks",)
    assert repeats(prompted) == repeats(folder)


def test_a_folder_named_as_kohya_does_gives_no_photo_of_10(tmp_path: Path) -> None:
    folder = scan_folder(make(tmp_path / "10_mycat cat", "1.png", "2.png"))
    assert captions(folder) == {"1.png": ("mycat cat",), "2.png": ("mycat cat",)}
    assert repeats(folder) == {"1.png": 10, "2.png": 10}


@pytest.mark.parametrize("name", ["2024_holiday", "01_first", "10_", "ten_cats"])
def test_other_names_with_numbers_say_nothing(tmp_path: Path, name: str) -> None:
    folder = scan_folder(make(tmp_path / name, "1.png"))
    assert captions(folder) == {"1.png": (f"a photo of {name}",)} and repeats(folder) == {"1.png": 1}


def test_kohyas_json(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", "a.png", "b.png", "c.d.jpg", "one/e.png", "two/e.png", "f.png")
    make(root, "f.txt=from a file", "a.txt=another")
    content = {
        "a": {"caption": "a cat", "tags": "sitting, red"},
        "/home/someone/pictures/b.png": {"tags": ["1girl", "solo"], "train_resolution": [512, 512]},
        "c.d": {"caption": "dots"},
        "C:\\pictures\\two\\e.png": {"caption": "the second"},
        "e": {"caption": "which of them"},
        "gone": {"caption": "nothing"},
    }
    (root / "meta_cap.json").write_text(json.dumps({"a": {"caption": "earlier"}}))
    (root / "meta_lat.json").write_text(json.dumps(content))
    (root / "a.json").write_text('{"caption": "by a downloader"}')
    folder = scan_folder(root, "x")
    assert captions(folder) == {
        "a.png": ("a cat, sitting, red",),
        "b.png": ("1girl, solo",),
        "c.d.jpg": ("dots",),
        "f.png": ("from a file",),
        "one/e.png": ("x",),
        "two/e.png": ("the second",),
    }
    for note in (
        "meta_lat.json names pictures that are not there: gone",
        "meta_lat.json names several pictures at once, which get no caption from it: e",
        "not used in meta_lat.json: train_resolution",
        "meta_cap.json is not used, since meta_lat.json has the captions",
        "captions both in meta_lat.json and in caption files, the former are used: a.png",
        "a.json: not a picture, ignored",
    ):
        assert note in folder.notes


def test_json_one_level_up_that_is_not_kohyas_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Annotations of a data set can have hundreds of megabytes."""
    root = make(tmp_path / "pictures", "a.png", "b.png")
    entries = {"a": {"train_resolution": [8, 8], "caption": "a {red} cat"}, "b": {"tags": "dog"}}
    (tmp_path / "mine.json").write_text(json.dumps(entries, indent=2), encoding="utf-8-sig")
    (tmp_path / "coco.json").write_text(json.dumps({"info": {"year": 2017}, "a": {"caption": "no"}}))
    (tmp_path / "list.json").write_text('[{"a": {"caption": "no"}}]')
    read: list[str] = []
    reads = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path.name), reads(path))[1])
    listed = list_folder(root)
    assert [one.captions for one in listed.found] == [("a {red} cat",), ("dog",)]
    assert read == ["mine.json"]


def test_kohyas_json_one_level_up(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", "a.png")
    (tmp_path / "meta_cap.json").write_text('{"a": {"caption": "a cat"}}')
    (tmp_path / "another.json").write_text('{"b": {"caption": "a dog"}}')
    folder = scan_folder(root)
    assert captions(folder) == {"a.png": ("a cat",)} and folder.notes == ()


def test_onetrainers_masks_are_never_trained(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "a-masklabel.png", "a-condlabel.png", "lost-masklabel.png", "b.jpg")
    (tmp_path / "b-masklabel.png").write_bytes((tmp_path / "a-masklabel.png").read_bytes())
    folder = scan_folder(tmp_path)
    assert {p.name: p.mask and p.mask.name for p in folder.pictures} == {
        "a.png": "a-masklabel.png",
        "b.jpg": "b-masklabel.png",
    }
    assert skipped(folder) == {
        "a-condlabel.png": "it is a conditioning picture of OneTrainer's",
        "lost-masklabel.png": "it is a mask of OneTrainer's without a picture",
    }
    note = "masks beside pictures are not used (data.mask=files uses them): a.png, b.jpg"
    assert note in folder.notes
    assert note not in scan_folder(tmp_path, None, DataSection(mask="files")).notes
    pairs = scan_pairs(PairsSection(data_dir=tmp_path))
    assert [(p.name, c.name) for p, c in zip(pairs.pictures, pairs.controls, strict=True)] == [
        ("a.png", "a-condlabel.png")
    ]
    assert {s.name: s.reason for s in pairs.skipped}["b.jpg"] == "it has no control picture"


def concept(path: str, **more: Any) -> dict[str, Any]:
    """As OneTrainer writes it, shortened."""
    image = {"enable_crop_jitter": False, "enable_random_flip": False, "random_flip": False}
    text = {"prompt_source": "sample", "prompt_path": "", "tag_dropout_enable": False} | more.pop("text", {})
    plain = {"name": "", "path": path, "seed": 3, "enabled": True, "validation_concept": False,
             "include_subdirectories": False, "image_variations": 1, "balancing": 1.0,
             "balancing_strategy": "REPEATS", "loss_weight": 1.0}  # fmt: skip
    return {"__version": 1, "image": image, "text": text, **plain, **more}


def test_onetrainers_concepts(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.png", "cat/1.txt=a cat\na red cat", "cat/deep/2.png", "cat/3.png")
    make(tmp_path, "dog/4.png", "bird/a blue bird.png", "off/5.png", "6.png")
    make(tmp_path, "prompts.txt=a dog\n\nthe dog\n")
    concepts = [
        concept("cat", balancing=4.0, loss_weight=2.0),
        concept("dog", balancing=2.5, text={"prompt_source": "concept", "prompt_path": "prompts.txt"}),
        concept("bird", text={"prompt_source": "filename", "enable_tag_shuffling": True}),
        concept("off", enabled=False),
    ]
    file = tmp_path / "concepts.json"
    file.write_text(json.dumps(concepts))
    expected = {
        "cat/1.png": ("a cat", "a red cat"),
        "cat/3.png": ("a photo of cat",),
        "dog/4.png": ("a dog", "the dog"),
        "bird/a blue bird.png": ("a blue bird",),
    }
    given = scan_folder(file)
    assert captions(given) == expected
    assert repeats(given) == {"cat/1.png": 4, "cat/3.png": 4, "dog/4.png": 2, "bird/a blue bird.png": 1}
    for note in (
        "1 of 4 concepts are disabled or for validation, and left out",
        "cat: its loss weight of 2.0 is not used",
        "dog: 2.5 repeats became 2",
        "bird: not used of OneTrainer's settings: enable_tag_shuffling",
        'pictures of cat without a caption get "a photo of cat"',
    ):
        assert note in given.notes
    found = scan_folder(tmp_path)
    assert captions(found) == expected
    left = ("6.png", "cat/deep/2.png", "off/5.png")
    assert skipped(found) == dict.fromkeys(left, "no concept of concepts.json has it")
    file.write_text(json.dumps([concept("cat", enabled=False)]))
    with pytest.raises(DataError, match="No concept in this file is enabled"):
        scan_folder(file)
    assert len(scan_folder(tmp_path).pictures) == 7
    file.write_text(json.dumps([concept("/nowhere/cat")]))
    with pytest.raises(DataError, match="A concept's folder is not there: /nowhere/cat"):
        scan_folder(file)
    beside = scan_folder(tmp_path)
    assert len(beside.pictures) == 7
    assert any("concepts.json is not used, since it names folders elsewhere" in n for n in beside.notes)


def test_the_trigger_of_ai_toolkit(tmp_path: Path) -> None:
    root = make(tmp_path / "mycat", "1.jpg", "1.txt=[trigger] on a [trigger] mat", "2.jpg", "2.txt=a cat")
    folder = scan_folder(root)
    assert captions(folder) == {"1.jpg": ("mycat on a mycat mat",), "2.jpg": ("a cat",)}
    assert '[trigger] became "mycat" in 1 caption' in folder.notes
    assert captions(scan_folder(root, "a photo of sks cat"))["1.jpg"] == ("sks cat on a sks cat mat",)


def test_links_that_go_round_are_cut(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", "z/1.png")
    (root / "a").symlink_to(root / "z")
    (root / "z" / "up").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    listed = list_folder(root)
    assert [one.path for one in listed.found] == [root / "z" / "1.png"]
    assert [s.name for s in listed.skipped] == ["self.png"]
    note = "not searched for pictures: a, z/up (a link to a folder that is searched already)"
    assert note in listed.notes


NAMES = st.text(st.sampled_from("a\\nux0\n\r\x1b\x85\u2028\u202e\u200f\udcff猫"), min_size=1, max_size=7)


@settings(max_examples=300, deadline=None)
@given(NAMES, NAMES)
def test_two_files_never_have_the_same_name_for_people_and_each_fits_in_a_line(one: str, other: str) -> None:
    root = Path("/pictures")
    for file in (other, relative_name(root / one, root)):  # a file may have the name that another is shown by
        names = [relative_name(root / name, root) for name in (one, file)]
        assert (names[0] == names[1]) == (one == file)
        assert all(name.isprintable() and name.encode() for name in names)


def test_a_path_that_is_too_long_costs_no_other_picture(tmp_path: Path) -> None:
    """A path holds 4095 bytes: there is room for a picture, but not for the names of metadata."""
    longest = os.pathconf("/", "PC_PATH_MAX") - len("//1.png")
    folder, here = tmp_path, os.open(tmp_path, os.O_RDONLY)
    while (left := longest - len(os.fsencode(folder)) - 1) >= 0:
        name = "d" * (left if left <= 200 else 100)
        os.mkdir(name, dir_fd=here)
        folder, above, here = folder / name, here, os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(above)
    os.mkdir("beyond", dir_fd=here)
    os.close(here)
    for place in (folder, tmp_path):
        painted(8, 8).save(place / "1.png")
    found = scan_folder(tmp_path)
    assert [picture.origin for picture in found.pictures] == [tmp_path / "1.png", folder / "1.png"]
    assert list(skipped(found).values()) == ["the folder cannot be read (File name too long)"]


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    make(tmp_path, "1.png")
    for name in ("pipe.png", "1.txt", "metadata.jsonl", "concepts.json"):
        os.mkfifo(tmp_path / name)
    folder = scan_folder(tmp_path)
    reason = "it is a pipe, not a file"
    assert skipped(folder) == dict.fromkeys(("1.txt", "concepts.json", "metadata.jsonl", "pipe.png"), reason)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "1.png", "secret/2.png")
    scandir = os.scandir

    def refuse(path: Path) -> Any:  # root may read everything
        if path.name == "secret":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert skipped(scan_folder(tmp_path)) == {"secret": "the folder cannot be read (Permission denied)"}


@pytest.mark.parametrize(
    "name", ["line\nbreak.png", "猫🐈\u200d⬛.png", "a\x1b[31m.png", os.fsdecode(b"\xff.png")]
)
def test_names_in_any_script(tmp_path: Path, name: str) -> None:
    make(tmp_path, name)
    (tmp_path / name).with_suffix(".txt").write_text("a cat")
    (picture,) = scan_folder(tmp_path).pictures
    assert picture.origin == tmp_path / name and picture.caption == "a cat"
    assert picture.name.encode().decode().isprintable() or "🐈" in picture.name
    assert ("\\n" in picture.name) == ("\n" in name)


def test_folders_that_other_settings_give_are_not_searched(tmp_path: Path) -> None:
    root = make(tmp_path, "1.png", "masks/1.png", "mycat-lora/samples/step.png")
    make(root, "mycat-lora/recipe.yaml=kind: lora", "mycat-lora/pictures.jsonl={}")
    folder = scan_folder(root, "x", DataSection(mask_dir=root / "masks"))
    assert [p.name for p in folder.pictures] == ["1.png"]
    assert folder.notes == (
        "not searched for pictures: masks (it is data.mask_dir)",
        "not searched for pictures: mycat-lora (a run folder)",
    )


def test_control_pictures_in_subfolders_go_by_their_place(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "a/1.png", "b/1.png", "b/2.png", "a/3.png", "b/3.png")
    make(root / "edges", "a/1.png", "b/1.jpg", "2.png", "3.png")
    pairs = scan_pairs(PairsSection(data_dir=root, conditioning_dir=root / "edges"))
    assert [(p.name, c.name) for p, c in zip(pairs.pictures, pairs.controls, strict=True)] == [
        ("a/1.png", "edges/a/1.png"),
        ("b/1.png", "edges/b/1.jpg"),
        ("b/2.png", "edges/2.png"),
    ]
    assert [s.name for s in pairs.skipped] == ["a/3.png", "b/3.png"]  # it is not clear whose edges/3.png is
    assert "control pictures without a picture of the same name: 3.png" in pairs.notes
