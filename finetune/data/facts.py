"""What decoding found about a file's bytes, kept on disk and found by their digest (promise P4)."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from finetune.data.shards import not_writable

FACTS = "facts"
"""The folder of them in a cache folder."""


@dataclass(frozen=True)
class Facts:
    """What decoding finds.

    Attributes:
        width: Width in pixels, upright.
        height: Height in pixels, upright.
        transparent: Whether some of it is.
        notes: What its owner should know.
        fault: Why it cannot be trained on; empty if it can.
    """

    width: int = 0
    height: int = 0
    transparent: bool = False
    notes: tuple[str, ...] = ()
    fault: str = ""


class FactsIndex:
    """Facts by key, one line each in up to 256 files, to which lines are only ever appended.

    So several runs can use it at once, and a kill costs at most the line being written. Each line has a
    checksum: one that is damaged is as if it were not there.

    Args:
        directory: Folder of the files; made when first needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> Facts | None:
        """What is known by `key` (hex digits), if anything is."""
        with self._lock:
            if (line := self._lines(key[:2]).get(key)) is None:
                return None
        checksum, _, content = line.partition(" ")
        if checksum != _checksum(key, content):
            return None
        values = json.loads(content)
        return Facts(**values | {"notes": tuple(values["notes"])})

    def put(self, key: str, facts: Facts) -> None:
        """Keeps `facts` under `key` (hex digits).

        Raises:
            ConfigError: If the folder cannot be written.
        """
        content = json.dumps(asdict(facts))
        line = f"{_checksum(key, content)} {content}"
        with self._lock:
            self._lines(key[:2])[key] = line
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                descriptor = os.open(self._file(key[:2]), flags, 0o666)
                try:
                    # It begins with a line break, since a killed writer may have left half a line.
                    os.write(descriptor, f"\n{key} {line}\n".encode())
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise not_writable(self._directory, error) from error

    def _file(self, shard: str) -> Path:
        return self._directory / f"{shard}.txt"

    def _lines(self, shard: str) -> dict[str, str]:
        """The lines of one file, by key; a later one replaces an earlier."""
        if shard not in self._read:
            try:
                text = self._file(shard).read_text(encoding="ascii", errors="replace")
            except OSError:
                text = ""
            parts = (line.partition(" ") for line in text.split("\n"))
            self._read[shard] = {key: rest for key, _, rest in parts if rest}
        return self._read[shard]


def _checksum(key: str, content: str) -> str:
    return hashlib.sha256(f"{key} {content}".encode()).hexdigest()[:16]


def facts_files(directory: Path) -> list[Path]:
    """The files of an index; none if there is no such folder."""
    return sorted(directory.glob("[0-9a-f][0-9a-f].txt"))


def intact_lines(path: Path) -> tuple[dict[str, str], int]:
    """The lines of a file that are intact, by key and the last one of each; and how many are damaged.

    Raises:
        OSError: If it cannot be read.
    """
    intact: dict[str, str] = {}
    damaged = 0
    for line in filter(None, path.read_text(encoding="ascii", errors="replace").split("\n")):
        key, checksum, content = (*line.split(" ", 2), "", "")[:3]
        if checksum == _checksum(key, content):
            intact[key] = line
        else:
            damaged += 1
    return intact, damaged
