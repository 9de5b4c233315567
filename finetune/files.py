"""Files that appear whole or not at all (promise P2), and cleaning up after those that did not."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import sys
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

if sys.platform != "win32":
    import fcntl

_UMASK = os.umask(0)
os.umask(_UMASK)  # it can be read only by setting it

# Control characters, separators of lines, what changes the direction of text, and bytes that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# The name of a file being written: how its final name begins, then its writer's machine, process id and start
# time. A name may have 255 bytes, and a character four of them.
_PARTIAL = re.compile(r"\..+\.([0-9a-f]{6})-(\d+)-(\d+)-[0-9a-f]{8}\.partial", re.DOTALL)
_LONGEST_BEGINNING = 45
_MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def shown(text: str) -> str:
    r"""A file name or other text as it can be printed in one line: a line break in it becomes `\n`."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def partial_name(path: Path) -> Path:
    """Where to write before renaming to `path`, known to `remove_partials`; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    process = os.getpid()
    writer = f"{_MACHINE}-{process}-{_started(process)}"
    return path.with_name(f".{path.name[:_LONGEST_BEGINNING]}.{writer}-{uuid.uuid4().hex[:8]}.partial")


def _started(process: int) -> int | None:
    """When a process started, in seconds; None if there is none. Process ids are reused, times are not."""
    import psutil  # only for writing, so that --help is fast

    try:
        return int(psutil.Process(process).create_time())
    except psutil.NoSuchProcess:
        return None


def _sync(path: Path) -> None:
    if path.is_file():  # some libraries write files that nobody else may read
        path.chmod(0o666 & ~_UMASK)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Adds `path` to OSErrors raised inside; those of a failed write name no file.

    safetensors has its own words for them ("… (os error 28)"); these become OSErrors.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or is_partial(Path(os.fsdecode(error.filename))):
            error.filename = str(path)
        raise
    except SafetensorError as error:
        if not (found := re.search(r"os error (\d+)", str(error))):
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def check_writable(folder: Path) -> None:
    """Checks that files can be created in a folder, which need not exist yet; leaves nothing behind.

    Raises:
        OSError: If not, with the folder that cannot be written.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    with named(there), tempfile.TemporaryFile(dir=there) as file:
        file.write(b"1")
        file.flush()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to; on success the file is flushed and renamed to `path`.

    On an exception the partial file is removed and `path` keeps its content.
    """
    with named(path):
        aside = partial_name(path)
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
    with named(path):
        aside = partial_name(path)
        aside.mkdir()
        try:
            yield aside
            for file in sorted(aside.rglob("*")):
                _sync(file)
            if path.exists():
                old = partial_name(path)
                os.replace(path, old)
                os.replace(aside, path)
                _remove(old)
            else:
                os.replace(aside, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Removes a folder; a kill midway leaves no part of it under its name."""
    aside = partial_name(path)
    os.replace(path, aside)
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def is_partial(path: Path) -> bool:
    """Whether a file or folder was still being written, by its name."""
    return _PARTIAL.fullmatch(path.name) is not None


def remove_partials(folder: Path, *, deep: bool = False, owned: bool = False) -> None:
    """Removes partial files that killed processes left in a folder.

    What a running process of this machine is writing stays.

    Args:
        folder: The folder; need not exist.
        deep: Also search all folders below it.
        owned: Nobody but this machine uses the folder, so what other machines left goes too.
    """
    for path in sorted(folder.rglob(".*.partial") if deep else folder.glob(".*.partial")):
        found = _PARTIAL.fullmatch(path.name)
        if not found or not path.exists():
            continue
        machine, process, started = found.groups()
        dead = str(_started(int(process))) != started if machine == _MACHINE else owned
        if dead and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif dead:
            path.unlink(missing_ok=True)


def use_folder(owner: object, folder: Path) -> None:
    """Tells other processes that a folder is used, for as long as `owner` lives; see `only_user`.

    The lock is the operating system's, on the folder itself: it leaves no file and ends with the process.
    Where there are none (Windows, some network drives), nothing is told.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    weakref.finalize(owner, os.close, descriptor)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)


@contextmanager
def only_user(folder: Path) -> Iterator[bool]:
    """Yields whether nobody uses a folder, as far as can be told; inside, nobody begins to."""
    if sys.platform == "win32":
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        alone = False
    except OSError:  # there are no locks here
        alone = True
    else:
        alone = True
    try:
        yield alone
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
