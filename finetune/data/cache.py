"""Tensors found by the content they were made from (promise P4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from finetune.config import DataSection
from finetune.errors import ConfigError
from finetune.files import remove_partials, whole_file

T = TypeVar("T")
Row = dict[str, Tensor]
Progress = Callable[[int, int], None]
"""Called with the number of things done and their total."""


def chunked(things: Iterable[T], most: int) -> Iterator[list[T]]:
    """The things in lists of at most so many."""
    rest = iter(things)
    while chunk := list(islice(rest, most)):
        yield chunk


def content_key(*parts: str) -> str:
    """SHA-256 of all parts, in hex; the parts stay apart, so ("a", "bc") is not ("ab", "c")."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


class ContentCache:
    """Named tensors by key, in memory and, if there is a directory, in one safetensors file per key.

    Without a directory everything stays in memory. With one, as much stays in memory as `room`
    allows and the rest is read from its file each time, so a data set may be larger than memory.

    Args:
        directory: Folder of the files; made when first needed.
        room: Bytes of tensors to keep in memory when there is a directory.
    """

    def __init__(self, directory: Path | None = None, room: int = 4 * 2**30) -> None:
        self.directory = directory
        self._room = room
        self._held = 0
        self._memory: dict[str, Row] = {}

    def get(self, key: str) -> Row | None:
        """The tensors of `key`, or None if there are none or their file is damaged."""
        if key in self._memory or self.directory is None:
            return self._memory.get(key)
        try:
            # Read, not mapped: a file that is removed or truncated during the run does no harm.
            tensors: Row = load(self._file(self.directory, key).read_bytes())
        except (OSError, SafetensorError):
            return None
        self._remember(key, tensors)
        return tensors

    def put(self, key: str, tensors: Row) -> None:
        """Keeps tensors under `key`; the file appears whole or not at all.

        Raises:
            ConfigError: If the directory cannot be written.
        """
        # Copied: one row would keep the storage of its whole batch alive.
        tensors = {
            name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()
        }
        self._remember(key, tensors)
        if self.directory is None:
            return
        try:
            with whole_file(self._file(self.directory, key)) as file:
                save_file(tensors, file)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"The cache cannot be written: {error}.",
                where=f"data.cache_dir = {self.directory}",
                fix="Choose a folder that can be written and has space, or leave data.cache_dir unset.",
            ) from error

    def _remember(self, key: str, tensors: Row) -> None:
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        if self.directory is None or self._held + size <= self._room:
            self._memory[key] = tensors
            self._held += size

    @staticmethod
    def _file(directory: Path, key: str) -> Path:
        return directory / key[:2] / f"{key}.safetensors"


class Encoded(Generic[T]):
    """Things as an encoder gives them, each encoded once if there is a cache.

    Args:
        encode: From some things to the tensors of each.
        key: Of a thing, from all that its tensors depend on.
        cache: Where they are kept; None to encode them every time.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[T]], list[Row]],
        key: Callable[[T], str],
        cache: ContentCache | None,
    ) -> None:
        self._encode, self._key, self._cache = encode, key, cache

    def prepare(self, chunks: Sequence[Sequence[T]], progress: Progress | None = None) -> None:
        """Fills the cache, if there is one; the things of a chunk are encoded together."""
        if self._cache is None:
            return
        done, total = 0, sum(map(len, chunks))
        for chunk in chunks:
            # A chunk is encoded whole or not at all: matrix products of another batch size may round
            # differently, and an interrupted preparation must end in the same bytes.
            if any(self._cache.get(self._key(thing)) is None for thing in chunk):
                self._encode_into(self._cache, chunk)
            done += len(chunk)
            if progress:
                progress(done, total)

    def rows(self, things: Sequence[T]) -> list[Row]:
        """The tensors of each thing, those that the cache lacks encoded one by one."""
        if self._cache is None:
            return self._encode(things)
        cache = self._cache
        return [cache.get(self._key(thing)) or self._encode_into(cache, [thing])[0] for thing in things]

    def _encode_into(self, cache: ContentCache, things: Sequence[T]) -> list[Row]:
        rows = self._encode(things)
        for thing, row in zip(things, rows, strict=True):
            if cache.get(key := self._key(thing)) is None:
                cache.put(key, row)
        return rows


def cache_of(data: DataSection, kind: str) -> ContentCache | None:
    """The cache for tensors of one kind, in a folder of its own; None if nothing is cached."""
    if not data.cache:
        return None
    if data.cache_dir:
        remove_partials(data.cache_dir / kind, deep=True)
    return ContentCache(data.cache_dir / kind if data.cache_dir else None)
