"""What a run was trained on, written, read again and compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.layouts import Skipped
from finetune.data.record import Entry, differences, read_record, write_record, write_skipped

ENTRIES: list[Entry] = [
    {"file": "1.png", "sha256": "a" * 64, "caption": "eine Kätzchen\nmit Hut"},
    {"file": "2.png", "sha256": "b" * 64, "caption": "", "mask": "c" * 64},
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pictures.jsonl"
    write_record(path, ENTRIES)
    assert read_record(path) == ENTRIES
    assert len(path.read_bytes().splitlines()) == 2
    assert "Kätzchen" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b'["file"]\n',
        b'{"sha256": "a"}\n',
        b'{"file": 3}\n',
        b'{"file": "1.png"}\n{"file": 1}',
        b"\xff\n",
    ],
)
def test_a_damaged_record_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pictures.jsonl"
    assert read_record(path) is None
    path.write_bytes(content)
    assert read_record(path) is None


def test_skipped_files_are_written_one_a_line(tmp_path: Path) -> None:
    bad = [Skipped(tmp_path / "a.png", "the file is empty", "a.png"), Skipped(tmp_path / "b", "no", "猫/b")]
    write_skipped(tmp_path / "skipped.txt", bad)
    text = (tmp_path / "skipped.txt").read_text(encoding="utf-8")
    assert text == "a.png\tthe file is empty\n猫/b\tno\n"


def test_differences_are_told_in_words() -> None:
    assert differences(ENTRIES, ENTRIES) == []
    now: list[Entry] = [
        {"file": "2.png", "sha256": "d" * 64, "caption": "a cat"},
        {"file": "10.png", "sha256": "e" * 64, "caption": ""},
    ]
    assert differences(ENTRIES, now) == [
        "1.png is gone",
        "10.png is new",
        "the caption of 2.png",
        "the mask of 2.png",
        "the picture of 2.png",
    ]
