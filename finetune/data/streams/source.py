"""Batches from a stream: block by block, each as if it were a small folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.cache import content_key
from finetune.data.decode import VERSION
from finetune.data.encoded import Progress
from finetune.data.folder import Folder
from finetune.data.notes import NAMED, count, skipped_notes
from finetune.data.read import Reader
from finetune.data.record import Entry
from finetune.data.source import PictureSource
from finetune.data.streams.known import Known, KnownBlocks
from finetune.data.streams.stream import Block, Cursor
from finetune.diffusion.batch import Batch


@dataclass(frozen=True)
class _Shown:
    """A block that is trained on."""

    known: Known
    source: PictureSource

    @property
    def numbers(self) -> range:
        """The samples that show it."""
        return range(self.known.start, self.known.start + len(self.source))


class StreamSource:
    """Batches from a stream.

    Sample numbers are counted through the blocks of the stream (`Block`); in a block, a `PictureSource` says
    what each shows. While a block is trained on, the next one is read at the same pace, so at most two are in
    memory.

    Args:
        first: A source of the first pictures, for captions and remarks.
        make: Makes the source of a block.
        size: Most pictures of a block.
        reader: How pictures are read.
        file: Where it is kept where blocks begin.
        write: Whether this process writes that file.
    """

    def __init__(
        self,
        first: PictureSource,
        make: Callable[[Folder], PictureSource],
        size: int,
        reader: Reader,
        file: Path,
        *,
        write: bool = True,
    ) -> None:
        assert first.folder.stream is not None
        self.first, self._stream, self._seed = first, first.folder.stream, first.seed
        self._make, self._size, self._reader = make, size, reader
        settings = f"{size} {first.seed} {reader.background} {len(first.items) // len(first.folder.pictures)}"
        key = content_key("blocks", VERSION, self._stream.digest, settings)
        self.known = KnownBlocks(file, key, write=write)
        self._now: _Shown | None = None
        self._next: Block | None = None

    def batches(self, numbers: Sequence[int]) -> list[Batch]:
        """The samples of these global numbers, on the CPU: a batch for each shape among them.

        Raises:
            DataError: If the stream cannot be read on.
        """
        batches: list[Batch] = []
        own: list[int] = []
        for number, following in zip(numbers, [*numbers[1:], None], strict=True):
            block = self._block(number)
            own.append(number)
            if following not in block.numbers:
                batches += block.source.batches(own)
                own = []
        done = (numbers[-1] + 1 - block.numbers.start) / len(block.source)
        if self._next:
            self._next.read(math.ceil(done * self._size))
        return Batch.by_shape(batches)

    def _block(self, number: int) -> _Shown:
        """The block that a sample shows, read if need be."""
        while self._now is None or number not in self._now.numbers:
            start, begin = self.known.before(number)
            if self._next is None or self._next.start != start:
                self._next = self._reading(start, begin)
            block, self._now = self._next, None
            source = self._make(block.folder())
            self._now = _Shown(Known.of(block), source)
            self.known.add(self._now.known)
            following = self._now.numbers.stop
            self.known.expect(following, block.end)
            self._next = self._reading(following, block.end)
        return self._now

    def _reading(self, start: int, begin: Cursor) -> Block:
        return Block(self._stream, self._reader, self._size, self._seed, start, begin)

    @property
    def folder(self) -> Folder:
        """The first pictures."""
        return self.first.folder

    def captions(self) -> list[str]:
        """The distinct captions of the first pictures."""
        return self.first.captions()

    def prepare(self, progress: Progress | None = None) -> None:
        """Nothing: what is shown once an epoch, and does not fit the disk, is encoded when it is shown."""

    def found(self) -> list[str]:
        """Nothing, since nothing is kept."""
        return []

    def record(self) -> list[Entry]:
        """What each shard is, for `pictures.jsonl`."""
        return list(self._stream.shards)

    def digest(self) -> str:
        """SHA-256, in hex, of what is read and how."""
        return self._stream.digest

    def summary(self) -> list[str]:
        """Lines for the user: what is streamed, and what is unexpected about the first pictures."""
        what, *rest = self.first.summary()
        number = count(len(self.folder.pictures), "picture")
        shards = f"{count(len(self._stream.shards), 'shard')} of {self._stream.path}"
        lines = [f"{shards}, read as a stream; {self._size} pictures are shuffled at a time"]
        shapes = what.partition(f" from {self.folder.path}, ")[2]
        return [*lines, f"its first {number}, {shapes}", *rest]

    def met(self) -> list[str]:
        """Lines for the user, after the training: what was skipped, and what had no caption."""
        lines = skipped_notes(self.known.skipped)
        if len(self.known.skipped) > NAMED:
            lines.append("every skipped picture is named in stream.jsonl in the run folder")
        if self.known.uncaptioned:
            said = self._stream.how.default
            lines.append(f'{count(self.known.uncaptioned, "picture")} without a caption got "{said}"')
        return lines
