"""Good, bad and odd folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from finetune.config import DataSection
from finetune.data.folder import scan_folder
from finetune.data.notes import holds_pictures
from finetune.errors import DataError
from tests.data.conftest import painted


def test_pictures_come_by_name_with_size_digest_and_caption(mycat: Path) -> None:
    folder = scan_folder(mycat, "a photo of sks")
    assert [p.name for p in folder.pictures] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    sizes = [(48, 32), (32, 48), (40, 40), (64, 33), (33, 64)]
    assert [(p.width, p.height) for p in folder.pictures] == sizes
    captions = ["a photo of sks", "a red cat", "a photo of sks", "a blue dog", "a photo of sks"]
    assert [p.caption for p in folder.pictures] == captions
    for picture in folder.pictures:
        assert picture.digest == hashlib.sha256(picture.origin.read_bytes()).hexdigest()
    assert folder.skipped == ()
    assert folder.notes == ('2 pictures with a caption, the others get the prompt "a photo of sks"',)


def test_the_folder_name_is_the_trigger_word(mycat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mycat / "1.txt").unlink()
    (mycat / "3.txt").unlink()
    monkeypatch.chdir(mycat)
    for spelling in (mycat, str(mycat), "."):
        folder = scan_folder(spelling)
        assert {p.caption for p in folder.pictures} == {"a photo of mycat"}
        assert folder.notes == ('no captions: the folder\'s name is the trigger word, "a photo of mycat"',)


def test_a_prompt_that_nothing_uses_is_told(mycat: Path) -> None:
    for i in range(5):
        (mycat / f"{i}.txt").write_text("words")
    assert scan_folder(mycat).notes == ()
    assert scan_folder(mycat, "other").notes == (
        'the prompt "other" is not used: every picture has a caption',
    )


def test_captions_are_cleaned_utf8(mycat: Path) -> None:
    (mycat / "0.txt").write_bytes(b"\xef\xbb\xbfein r\xc3\xb6ter  Kater\r\nim Schnee\n")
    (mycat / "2.txt").write_text(" \n")
    (mycat / "4.txt").write_bytes("ein röter Kater".encode("latin-1"))
    folder = scan_folder(mycat, "x")
    captions = ["ein röter Kater im Schnee", "a red cat", "", "a blue dog"]
    assert [p.caption for p in folder.pictures] == captions
    assert "empty caption: 2.png" in folder.notes
    assert [(s.path.name, s.reason) for s in folder.skipped] == [
        ("4.png", "its caption 4.txt is not UTF-8 text; save it as UTF-8")
    ]


def test_a_text_of_more_than_10_000_characters_is_no_caption(mycat: Path) -> None:
    for name, length in (("0", 10_000), ("2", 10_001), ("4", 1_000_000)):
        (mycat / f"{name}.txt").write_text("c" * length)
    folder = scan_folder(mycat)
    assert folder.pictures[0].caption == "c" * 10_000
    assert [(s.path.name, s.reason) for s in folder.skipped] == [
        (f"{name}.png", f"its caption {name}.txt is longer than 10,000 characters") for name in "24"
    ]


def test_bad_pictures_among_good_ones_are_named(mycat: Path) -> None:
    whole = (mycat / "0.png").read_bytes()
    (mycat / "empty.jpg").write_bytes(b"")
    (mycat / "cut.png").write_bytes(whole[: len(whole) // 2])
    (mycat / "page.jpeg").write_text("<html>")
    (mycat / "phone.HEIC").write_bytes(b"....ftypheic")
    folder = scan_folder(mycat)
    assert len(folder.pictures) == 5
    reasons = {s.path.name: s.reason for s in folder.skipped}
    assert list(reasons) == ["cut.png", "empty.jpg", "page.jpeg", "phone.HEIC"]
    assert reasons["empty.jpg"] == "the file is empty"
    assert "not a PNG" in reasons["page.jpeg"]
    assert "save it as PNG or JPEG" in reasons["phone.HEIC"]


def test_everything_else_in_the_folder_is_told(mycat: Path) -> None:
    (mycat / "copy.PNG").write_bytes((mycat / "2.png").read_bytes())
    (mycat / "lonely.txt").write_text("a caption with a mistyped name")
    (mycat / "notes.md").write_text("hello")
    (mycat / ".DS_Store").write_text("")
    (mycat / "more").mkdir()
    painted(8, 8).save(mycat / "more" / "x.png")
    (mycat / ".thumbnails").mkdir()
    painted(8, 8).save(mycat / ".thumbnails" / "x.png")
    (mycat / "none").mkdir()
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(mycat / "see-through.png")
    (mycat / "nothing.png").symlink_to(mycat / "gone.png")
    rest = (
        "lonely.txt: text without a picture of the same name",
        "notes.md: not a picture, ignored",
        "see-through.png: transparent parts became white",
        "copy.PNG is the same file as 2.png; both are used",
    )
    folder = scan_folder(mycat, "x")
    assert len(folder.pictures) == 8
    assert folder.notes[1:] == ("1 picture from subfolders (data.nested): more", *rest)
    assert [(s.name, s.reason) for s in folder.skipped] == [
        ("nothing.png", "the file cannot be read (it is not there, or a link to nothing)")
    ]
    assert [s.name for s in folder.left_out] == ["lonely.txt", "notes.md", "nothing.png"]
    flat = scan_folder(mycat, "x", DataSection(nested=False))
    assert len(flat.pictures) == 7
    assert flat.notes[1:] == ("not searched for pictures: more (data.nested is false)", *rest)


def test_which_subfolders_hold_pictures(tmp_path: Path) -> None:
    for name in ("a.txt", ".hidden.png", "b.PNG"):
        assert not holds_pictures(tmp_path)
        (tmp_path / name).write_bytes(b"")
    assert holds_pictures(tmp_path)
    assert not holds_pictures(tmp_path / "b.PNG")  # not a folder at all


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder") as error:
        scan_folder(tmp_path / "nothing")
    assert error.value.fix
    assert error.value.where == str(tmp_path / "nothing")


def test_a_file_instead_of_a_folder(mycat: Path) -> None:
    with pytest.raises(DataError, match="file, but a folder"):
        scan_folder(mycat / "0.png")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures") as error:
        scan_folder(tmp_path)
    assert "Put a few" in str(error.value.fix)
    assert error.value.where == str(tmp_path)


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(DataError, match=r"no pictures.\n  a\.txt: text without a picture of the same name"):
        scan_folder(tmp_path)


def test_a_folder_of_folders(mycat: Path) -> None:
    (mycat.parent / "another").mkdir()
    painted(8, 8, 9).save(mycat.parent / "another" / "0.png")
    folder = scan_folder(mycat.parent, "x")
    names = ["another/0.png", *(f"mycat/{i}.png" for i in range(5))]
    assert [p.name for p in folder.pictures] == names
    assert "6 pictures from subfolders (data.nested): another, mycat" in folder.notes
    with pytest.raises(DataError, match=r"no pictures.\n  not searched .*: another, mycat"):
        scan_folder(mycat.parent, "x", DataSection(nested=False))


def test_a_folder_of_unreadable_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_text("no")
    with pytest.raises(DataError, match="None of the pictures can be used") as error:
        scan_folder(tmp_path)
    assert "a.png: the file is empty" in str(error.value)
    assert "b.png: not a PNG" in str(error.value)


def test_only_foreign_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.psd").write_bytes(b"x")
    with pytest.raises(DataError) as error:
        scan_folder(tmp_path)
    assert "a.psd: this format is not supported; save it as PNG or JPEG" in str(error.value)


def test_a_picture_that_changes_after_the_scan_is_refused(mycat: Path) -> None:
    first, second, *_ = scan_folder(mycat).pictures
    painted(48, 32, 99).save(first.origin)
    with pytest.raises(DataError, match="A picture was changed during the run"):
        first.read()
    second.origin.unlink()
    with pytest.raises(DataError, match="A picture of the run can no longer be read"):
        second.read()
