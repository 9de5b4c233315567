"""Files that appear whole or not at all (promise P2)."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UMASK = os.umask(0)
os.umask(_UMASK)  # it can be read only by setting it


def _aside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")


def _sync(path: Path) -> None:
    if path.is_file():  # some libraries write files that nobody else may read
        path.chmod(0o666 & ~_UMASK)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to; on success the file is flushed and renamed to `path`.

    On an exception the partial file is removed and `path` keeps what it held.
    """
    aside = _aside(path)
    try:
        yield aside
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Like `whole_file` for a folder; an existing `path` is replaced only once the new one is complete."""
    aside = _aside(path)
    aside.mkdir()
    try:
        yield aside
        for file in sorted(aside.rglob("*")):
            _sync(file)
        if path.exists():
            old = _aside(path)
            os.replace(path, old)
            os.replace(aside, path)
            shutil.rmtree(old)
        else:
            os.replace(aside, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
