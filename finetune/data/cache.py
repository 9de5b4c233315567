"""Tensors found by the content they were made from (promise P4)."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from finetune.config import DataSection
from finetune.data.shards import Shards
from finetune.files import remove_partials

Row = dict[str, Tensor]
Kind = Literal["latents", "texts", "controls", "masks"]
"""What is cached, each in a folder of its own."""

# What is not written yet is lost at a kill, and each file costs a little at every start.
_ROWS_A_FILE, _BYTES_A_FILE, _SECONDS_A_FILE = 256, 64 * 2**20, 30.0


def content_key(*parts: str) -> str:
    """SHA-256 of all parts, in hex; the parts stay apart, so ("a", "bc") is not ("ab", "c")."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


class ContentCache:
    """Named tensors by key, in memory or in the files of a directory.

    With a directory, rows are read from its files each time, so that a data set may be larger than memory.
    A file has some hundred of them (`Shards`); until it is written they are in memory.

    Args:
        directory: Folder of the files; made when first needed. None to keep everything in memory.

    Attributes:
        encoder: Who makes the rows that are put, for people.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self.encoder = ""
        self._memory: dict[str, Row] = {}
        self._shards = Shards(directory) if directory else None
        self._waiting: dict[bytes, bytes] = {}
        self._written = time.monotonic()

    def __contains__(self, key: str) -> bool:
        if self._shards is None:
            return key in self._memory
        return (own := bytes.fromhex(key)) in self._waiting or own in self._shards

    def get(self, key: str) -> Row | None:
        """The tensors of `key`, or None if there are none or they are damaged."""
        if self._shards is None:
            return self._memory.get(key)
        own = bytes.fromhex(key)
        data = self._waiting.get(own) or self._shards.read(own)
        try:
            return None if data is None else load(data)
        except SafetensorError:
            return None

    def put(self, key: str, tensors: Row) -> None:
        """Keeps tensors under `key`; in a directory they are after `flush`, whole or not at all."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if self._shards is None:
            # Copied: one row would keep the storage of its whole batch alive.
            self._memory[key] = {name: tensor.clone() for name, tensor in tensors.items()}
        else:
            self._waiting[bytes.fromhex(key)] = save(tensors)

    def flush(self, *, if_due: bool = False) -> None:
        """Writes what is not in the directory yet, and learns what other processes wrote.

        Args:
            if_due: Only if it is enough for a file, or the last one was written long ago.

        Raises:
            ConfigError: If the directory cannot be written.
        """
        if self._shards is None or (if_due and not self._is_due()):
            return
        self._shards.write(self._waiting, self.encoder)
        self._waiting.clear()
        self._written = time.monotonic()

    def mark_used(self, keys: list[str]) -> None:
        """Notes in the directory that a run uses these, which are in the cache."""
        if self._shards is not None:
            self._shards.mark_used(map(bytes.fromhex, keys))

    def _is_due(self) -> bool:
        size = sum(map(len, self._waiting.values()))
        late = time.monotonic() - self._written >= _SECONDS_A_FILE
        return late or len(self._waiting) >= _ROWS_A_FILE or size >= _BYTES_A_FILE


def cache_of(data: DataSection, kind: Kind) -> ContentCache | None:
    """The cache for tensors of one kind, in a folder of its own; None if nothing is cached."""
    if not data.cache:
        return None
    if data.cache_dir:
        remove_partials(data.cache_dir / kind)
    return ContentCache(data.cache_dir / kind if data.cache_dir else None)
