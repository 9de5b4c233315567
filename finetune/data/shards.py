"""Files of some hundred entries each, which appear whole and never change: a cache on disk."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from finetune.errors import ConfigError
from finetune.files import use_folder, whole_file

_SUFFIX = ".safetensors"
_NAME = re.compile(rf"[0-9a-f]{{64}}{re.escape(_SUFFIX)}")
_MOST_ROWS = 1 << 16


class Shard:
    """One file of entries. It is only open while it is read.

    The file is safetensors: `rows` holds the entries' bytes one after the other, `ends` where each ends,
    `keys` and `sums` each one's key and checksum (CRC-32 of both).

    Args:
        path: The file.

    Raises:
        ValueError: If it is damaged or gone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "numpy") as file:
                keys, ends, self._sums = (file.get_tensor(name) for name in ("keys", "ends", "sums"))
                length = file.get_slice("rows").get_shape()[0]
                self.encoder: str = (file.metadata() or {}).get("encoder", "")
            self._keys, self._ends, self._begins = keys, ends, np.concatenate([[0], ends[:-1]])
            # safetensors puts the narrowest type last, and of one type what comes last in the alphabet.
            self._start = path.stat().st_size - length
            whole = len(keys) == len(ends) == len(self._sums) and ends[-1] == length
        except (OSError, SafetensorError, IndexError) as error:
            raise ValueError(f"{path} is not a file of entries: {error}") from error
        if not whole or (self._begins > ends).any():
            raise ValueError(f"{path} is not a file of entries: it contradicts itself")

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self) -> list[bytes]:
        """The keys of all entries, 32 bytes each."""
        return [key.tobytes() for key in self._keys]

    def read(self, row: int) -> bytes | None:
        """The bytes of an entry; None if they are damaged or gone."""
        begin, end = int(self._begins[row]), int(self._ends[row])
        try:
            # Read, not mapped: a file that is cut short while it is used ends no process.
            with self.path.open("rb", buffering=0) as file:
                file.seek(self._start + begin)
                data = file.read(end - begin)
        except OSError:
            return None
        return data if _checksum(self._keys[row].tobytes(), data) == self._sums[row] else None


def shard_files(folder: Path) -> list[Path]:
    """The files of entries in a folder, damaged ones too; others are not looked at."""
    return sorted(path for path in folder.glob(f"*{_SUFFIX}") if _NAME.fullmatch(path.name))


def write_shard(folder: Path, entries: Mapping[bytes, bytes], encoder: str) -> Shard:
    """Writes a file of entries, named after their keys.

    Args:
        folder: Where to; made if needed.
        entries: The bytes of each by key (32 bytes).
        encoder: Who made them, for people.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    tensors = {
        "keys": torch.frombuffer(bytearray(b"".join(entries)), dtype=torch.uint8).view(len(entries), -1),
        "ends": torch.tensor([len(data) for data in entries.values()]).cumsum(0),
        "sums": torch.tensor([_checksum(key, data) for key, data in entries.items()]),
        "rows": torch.frombuffer(bytearray(b"".join(entries.values())), dtype=torch.uint8),
    }
    path = folder / f"{hashlib.sha256(b''.join(entries)).hexdigest()}{_SUFFIX}"
    try:
        with whole_file(path) as file:
            save_file(tensors, file, {"encoder": encoder})
    except (OSError, SafetensorError) as error:
        raise not_writable(folder, error) from error
    return Shard(path)


def not_writable(folder: Path, error: Exception) -> ConfigError:
    """The error for a folder of one kind of cache that cannot be written."""
    return ConfigError(
        f"The cache cannot be written: {error}.",
        where=f"data.cache_dir = {folder.parent}",
        fix="Choose a folder that can be written and has space, or leave data.cache_dir unset.",
    )


def _checksum(key: bytes, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(key))


class Shards:
    """All files of entries in a folder, and where each key is. Other processes may add and remove files.

    Args:
        folder: Need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: list[Shard] = []
        self._seen: set[Path] = set()
        self._places: dict[bytes, int] = {}  # which of the shards, times `_MOST_ROWS`, plus which row
        self._damaged: set[int] = set()
        self._held = False
        self.refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def refresh(self) -> None:
        """Learns what other processes added and removed."""
        if not self._held and self.folder.is_dir():
            use_folder(self, self.folder)
            self._held = True
        files = set(shard_files(self.folder))
        if self._seen - files:
            self._shards = [shard for shard in self._shards if shard.path in files]
            self._damaged.clear()
            self._find_places()
        for path in sorted(files - self._seen):
            with suppress(ValueError):  # damaged: as if it were not there
                self._add(Shard(path))
        self._seen = files

    def read(self, key: bytes) -> bytes | None:
        """The bytes of an entry; None if there are none that are intact."""
        while (place := self._places.get(key)) is not None:
            number, row = divmod(place, _MOST_ROWS)
            if (data := self._shards[number].read(row)) is not None:
                return data
            self._damaged.add(place)
            self._find_places()  # another file may have it too
            self.refresh()
        return None

    def write(self, entries: Mapping[bytes, bytes], encoder: str) -> None:
        """Writes entries that no file has yet; see `write_shard`."""
        self.refresh()
        new = {key: data for key, data in entries.items() if key not in self}
        keys = list(new)
        for start in range(0, len(keys), _MOST_ROWS):
            shard = write_shard(self.folder, {k: new[k] for k in keys[start : start + _MOST_ROWS]}, encoder)
            if shard.path not in self._seen:
                self._seen.add(shard.path)
                self._add(shard)

    def mark_used(self, keys: Iterable[bytes]) -> None:
        """Sets the time at which the files of these keys were last used."""
        places = (self._places.get(key) for key in keys)
        for number in {place // _MOST_ROWS for place in places if place is not None}:
            with suppress(OSError):  # somebody else's, or gone
                os.utime(self._shards[number].path)

    def _add(self, shard: Shard) -> None:
        self._shards.append(shard)
        self._find(len(self._shards) - 1)

    def _find_places(self) -> None:
        self._places = {}
        for number in range(len(self._shards)):
            self._find(number)

    def _find(self, number: int) -> None:
        for place, key in enumerate(self._shards[number].keys(), number * _MOST_ROWS):
            if place not in self._damaged:
                self._places.setdefault(key, place)
