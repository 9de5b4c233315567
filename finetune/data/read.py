"""A picture file on disk → its digest and what decoding finds; a bad one says why and holds nothing up."""

from __future__ import annotations

import errno
import hashlib
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from typing_extensions import Self

from finetune.config import DataSection
from finetune.data.cache import content_key
from finetune.data.decode import (
    BACKGROUND,
    VERSION,
    CannotReadNow,
    PictureError,
    alone_if_large,
    check_start,
    decode_picture,
    reading,
)
from finetune.data.encoded import Progress
from finetune.data.facts import FACTS, Facts, FactsIndex
from finetune.data.kinds import version_for
from finetune.data.origin import Origin

T = TypeVar("T")
R = TypeVar("R")

_MOST_BYTES = 2 * 2**30
_LARGE_BYTES = 2**25  # it is worth a look whether they are a picture, before they are read
_BYTES_A_PIXEL = 3  # of a file that is not compressed
_NO_FILES = {"p": "a pipe", "s": "a socket", "c": "a device", "b": "a device", "d": "a folder"}
_REASONS = {
    errno.ENOENT: "it is not there, or a link to nothing",
    errno.ELOOP: "it is a link that leads back to itself",
    errno.EACCES: "you are not permitted to read it",
}


class Reader:
    """Reads the picture files of a data set.

    A file's bytes are read and hashed each time. Decoding them, which takes many times as long, is done only
    where nothing is known about bytes with that digest.

    Args:
        background: The color that is seen through transparent parts.
        index: Where it is kept what decoding found; None to decode every file.
        progress: Called with the number of files that are read and their total.
    """

    def __init__(
        self,
        background: str = BACKGROUND,
        index: FactsIndex | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.background = background
        self._index, self._progress = index, progress

    @classmethod
    def of(cls, data: DataSection, progress: Progress | None = None) -> Self:
        """As a recipe's settings have it."""
        index = FactsIndex(data.cache_dir / FACTS) if data.cache_dir else None
        return cls(data.background, index, progress)

    def map(self, function: Callable[[T], R], things: Iterable[T]) -> list[R]:
        """Calls a function, which reads files, with each thing, some at a time; results in their order."""
        things = list(things)
        results: list[R] = []
        with reading() as pool:
            for result in pool.map(function, things):
                results.append(result)
                if self._progress:
                    self._progress(len(results), len(things))
        return results

    def read(self, origin: Origin) -> tuple[str, Facts]:
        """A picture's digest (SHA-256, in hex) and what is in it; call it inside `map`.

        Raises:
            PictureError: If it cannot be trained on.
        """
        with alone_if_large(_size(origin) // _BYTES_A_PIXEL):
            data = bytes_of(origin)
            digest = hashlib.sha256(data).hexdigest()
            facts = self._facts(data, digest)
        if facts.fault:
            raise PictureError(facts.fault)
        return digest, facts

    def _facts(self, data: bytes, digest: str) -> Facts:
        if self._index is None:
            return _decoded(data)
        key = content_key("facts", VERSION, version_for(data), digest)
        if (facts := self._index.get(key)) is None:
            facts = _decoded(data)
            self._index.put(key, facts)
        return facts


def _decoded(data: bytes) -> Facts:
    """What decoding finds, a fault too.

    Raises:
        CannotReadNow: If it says nothing about the file.
    """
    try:
        decoded = decode_picture(data)
    except CannotReadNow:
        raise
    except PictureError as reason:
        return Facts(fault=str(reason))
    return Facts(*decoded.image.size, decoded.transparent, decoded.notes)


def _size(origin: Origin) -> int:
    try:
        return origin.stat().st_size if isinstance(origin, Path) else 0
    except OSError:
        return 0


def not_a_file(path: Path) -> str | None:
    """Why there is no file to open at a path, in words; None if there is one."""
    try:
        kind = _NO_FILES.get(stat.filemode(path.stat().st_mode)[0])
    except OSError as error:
        return _cannot(error)
    return f"it is {kind}, not a file" if kind else None


def _cannot(error: OSError) -> str:
    return f"the file cannot be read ({_REASONS.get(error.errno or 0, error.strerror)})"


def bytes_of(origin: Origin) -> bytes:
    """The bytes of a picture, in a file or elsewhere; call it inside `quiet_pillow`.

    What is not a file is not opened: a pipe might never answer. Of what is large and no picture, as a film
    with the suffix of one, only the start is read.

    Raises:
        PictureError: If it cannot be read.
    """
    if isinstance(origin, Path) and (reason := not_a_file(origin)):
        raise PictureError(reason)
    if (size := _size(origin)) > _MOST_BYTES:
        raise PictureError(f"a file of {size / 1e9:.1f} GB is too large; scale it down")
    try:
        if isinstance(origin, Path) and size > _LARGE_BYTES:
            check_start(origin)
        return origin.read_bytes()
    except OSError as error:
        raise PictureError(_cannot(error)) from error
    except MemoryError:
        raise CannotReadNow("there is not enough memory to read it") from None
