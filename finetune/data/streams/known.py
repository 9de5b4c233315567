"""`stream.jsonl`: where the blocks of a stream begin, so that a resumed run need not read all before."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

from finetune.data.streams.stream import Block, Cursor
from finetune.files import named, whole_file


@dataclass(frozen=True)
class Known:
    """What is known of a block.

    Attributes:
        start: The number of its first sample.
        begin: Where it begins.
        skipped: Name of each file that was skipped in it, and the reason.
        uncaptioned: How many of its pictures have no caption of their own.
    """

    start: int
    begin: Cursor
    skipped: tuple[tuple[str, str], ...]
    uncaptioned: int

    @classmethod
    def of(cls, block: Block) -> Self:
        """Of a block that was read."""
        skipped = tuple((one.name, one.reason) for one in block.skipped)
        uncaptioned = sum(not one.picture.captioned for one in block.shown)
        return cls(block.start, block.begin, skipped, uncaptioned)


class KnownBlocks:
    """The blocks that a run has met, in its folder.

    The file saves time and nothing else: what it says follows from the data and the settings, and what is
    missing or damaged is found again by reading the stream.

    Args:
        path: The file; made when a block is first added.
        key: Of all that the blocks follow from; lines of another key are not used.
        write: Whether this process writes the file.
    """

    def __init__(self, path: Path, key: str, *, write: bool = True) -> None:
        self._path, self._key, self._write = path, key[:16], write
        self._fresh = True
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        found = (self._read(line) for line in text.splitlines())
        self._met = {known.start: known for known in found if known}
        self._begins = {0: Cursor()} | {start: known.begin for start, known in self._met.items()}

    def before(self, number: int) -> tuple[int, Cursor]:
        """The last block known that does not start after a sample: its start, and where it begins."""
        starts = sorted(self._begins)
        start = starts[bisect_right(starts, number) - 1]
        return start, self._begins[start]

    def expect(self, start: int, begin: Cursor) -> None:
        """Notes where a block begins that was not read yet."""
        self._begins.setdefault(start, begin)

    def add(self, known: Known) -> None:
        """Notes a block that was read.

        Raises:
            OSError: If the file cannot be written.
        """
        if known.start in self._met:
            return
        self._met[known.start] = known
        if not self._write:
            return
        with named(self._path):
            if self._fresh:  # without what a killed writer, or another stream, left
                with whole_file(self._path) as aside:
                    lines = [self._line(self._met[start]) for start in sorted(self._met)]
                    aside.write_text("".join(lines), encoding="utf-8")
            else:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(self._line(known))
        self._fresh = False

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Name of each file that was skipped, and the reason, in the order in which they were met."""
        return list(dict.fromkeys(pair for start in sorted(self._met) for pair in self._met[start].skipped))

    @property
    def uncaptioned(self) -> int:
        """How often a picture without a caption of its own was met."""
        return sum(known.uncaptioned for known in self._met.values())

    def _line(self, known: Known) -> str:
        return json.dumps({"stream": self._key, **asdict(known)}, ensure_ascii=False) + "\n"

    def _read(self, line: str) -> Known | None:
        try:
            values: Mapping[str, Any] = json.loads(line)
            if values["stream"] != self._key:
                return None
            skipped = tuple((str(name), str(reason)) for name, reason in values["skipped"])
            begin = Cursor(**values["begin"])
            return Known(int(values["start"]), begin, skipped, int(values["uncaptioned"]))
        except (ValueError, TypeError, KeyError):
            return None
