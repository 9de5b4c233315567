"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from finetune.files import partial_name, remove_partials, whole_file, whole_folder


def fail(writing: AbstractContextManager[Path]) -> None:
    """Fails halfway through."""
    with writing as aside:
        (aside / "b" if aside.is_dir() else aside).write_text("half")
        raise RuntimeError


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with whole_file(path) as aside:
        aside.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"
    assert [f.name for f in path.parent.iterdir()] == ["file.txt"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        fail(whole_file(path))
    assert path.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with whole_folder(path) as aside:
        (aside / "a").write_text("1")
    with pytest.raises(RuntimeError):
        fail(whole_folder(path))
    assert [f.name for f in path.iterdir()] == ["a"]
    with whole_folder(path) as aside:
        (aside / "b").write_text("2")
    assert [f.name for f in path.iterdir()] == ["b"]
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]


def test_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    with whole_folder(tmp_path / "folder") as aside:
        save_file({"a": torch.zeros(1)}, aside / "a.safetensors")
    assert (tmp_path / "folder" / "a.safetensors").stat().st_mode == plain.stat().st_mode


def test_an_error_while_writing_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for error in (OSError(errno.ENOSPC, "full"), SafetensorError("I/O error: full (os error 28)")):
        with pytest.raises(OSError, match=r"weights\.safetensors") as caught, whole_file(path):
            raise error
        assert caught.value.errno == errno.ENOSPC
        assert list(tmp_path.iterdir()) == []


def test_only_what_the_dead_were_writing_is_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", f"""
import os
from pathlib import Path
from finetune.files import partial_name
partial_name(Path({str(tmp_path)!r}) / "file").touch()
partial_name(Path({str(tmp_path)!r}) / "deep" / "folder").mkdir()
os._exit(0)
"""])  # fmt: skip
    dead.wait()
    (tmp_path / ".mine.partial").touch()  # somebody else's file
    with whole_file(tmp_path / "living") as living:
        living.touch()
        remove_partials(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {".mine.partial", "deep", living.name}
        assert len(list((tmp_path / "deep").iterdir())) == 1
        remove_partials(tmp_path, deep=True)
        assert list((tmp_path / "deep").iterdir()) == []
        assert living.exists()


NAMES = {"long": "x" * 251, "wide": "🐈" * 62, "lines": "line\nbreak", "bytes": "\udcff"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_file_may_have_any_name_that_the_system_allows(tmp_path: Path, name: str) -> None:
    name += ".txt"
    with whole_file(tmp_path / name) as aside:
        aside.write_text("a cat")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    left = partial_name(tmp_path / name)
    left.with_name(left.name.replace(f"-{os.getpid()}-", "-999999999-")).touch()
    remove_partials(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
