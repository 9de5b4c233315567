"""The rows of a stream in the order of an epoch, and the blocks of pictures that they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finetune.data.folder import Folder, NothingUsable
from finetune.data.layouts import Skipped
from finetune.data.origin import Origin
from finetune.data.pairs import PairedFolder
from finetune.data.read import Reader
from finetune.data.record import Entry
from finetune.data.rows.library import quiet_datasets
from finetune.data.streams.rows import Row, Rows, Shown, read_row
from finetune.diffusion.random import generator
from finetune.errors import DataError

if TYPE_CHECKING:
    from datasets import IterableDataset


@dataclass(frozen=True)
class Cursor:
    """A place in a stream.

    Attributes:
        epoch: How often all shards were read before.
        shard: How many shards of this epoch were read before.
        row: How many rows of this shard were read before.
    """

    epoch: int = 0
    shard: int = 0
    row: int = 0


@dataclass(frozen=True)
class Stream:
    """A data set that is read shard by shard.

    Attributes:
        path: What the user named.
        dataset: Its rows, their pictures not decoded.
        how: What the rows mean.
        shards: What each shard is, in their order; for `pictures.jsonl`.
        digest: SHA-256, in hex, of what is read and how.
        revision: The commit of a data set of the Hub.
        notes: Lines for the user.
    """

    path: Path
    dataset: IterableDataset = field(repr=False)
    how: Rows
    shards: tuple[Entry, ...]
    digest: str
    revision: str | None = None
    notes: tuple[str, ...] = ()

    def rows(self, begin: Cursor, seed: int | None) -> Iterator[tuple[Cursor, str, Row]]:
        """The rows from a place to the end of its epoch, each with the place after it and its own name.

        Args:
            begin: The place.
            seed: Of the order of the shards, another in each epoch; None for their own.

        Raises:
            DataError: If a shard cannot be read on.
        """
        order = list(range(len(self.shards)))
        if seed is not None:
            draws = generator(seed, begin.epoch, "shards")
            order = torch.randperm(len(order), generator=draws).tolist()
        for shard, index in list(enumerate(order))[begin.shard :]:
            first = begin.row if shard == begin.shard else 0
            file = self.shards[index]["file"]
            for number, row in enumerate(self._shard(index, first), first):
                own = f"{file}" if "__key__" in row else f"{file}[{number}]"
                yield Cursor(begin.epoch, shard, number + 1), own, row

    def _shard(self, index: int, first: int) -> Iterator[Row]:
        try:
            yield from self.dataset.shard(len(self.shards), index).skip(first)
        except Exception as error:  # of tarfile, pyarrow, or whatever reads from afar
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise DataError(
                f"The stream cannot be read on: {reason}",
                where=self.shards[index]["file"],
                fix="Check the file, or the network. A run goes on from its last checkpoint with --resume.",
            ) from error

    def folder(self, start: int, shown: list[Shown], skipped: list[Skipped[Origin]]) -> Folder:
        """Some of its pictures as a folder."""
        pictures = tuple(one.picture for one in shown)
        if not self.how.paired:
            return Folder(self.path, pictures, tuple(skipped), (), start=start)
        controls = tuple(one.control or one.picture for one in shown)
        return PairedFolder(self.path, pictures, tuple(skipped), (), controls, start=start)


class Block:
    """The next readable pictures of a stream, at most so many and of one epoch.

    So where a block ends depends on the data, the seed and the size alone, however it is read.

    Args:
        stream: The stream.
        reader: How pictures are read.
        size: Most pictures.
        seed: Of the order of the shards; None for their own.
        start: The number of its first sample.
        begin: Where it begins.

    Attributes:
        begin: Where it begins; in the next epoch if there was nothing more to read in this.
        end: Where it ends, as far as it was read.
    """

    def __init__(
        self, stream: Stream, reader: Reader, size: int, seed: int | None, start: int, begin: Cursor
    ) -> None:
        self.start, self.begin, self.end = start, begin, begin
        self._stream, self._reader, self._size, self._seed = stream, reader, size, seed
        self._rows = stream.rows(begin, seed)
        self._complete = False
        self.shown: list[Shown] = []
        self.skipped: list[Skipped[Origin]] = []

    def read(self, number: int) -> None:
        """Reads on until it has so many pictures, or all that it can have."""
        number = min(number, self._size)
        with quiet_datasets():
            while not self._complete and len(self.shown) < number:
                rows = list(islice(self._rows, number - len(self.shown)))
                self._add(rows)
                if not rows and self.shown:
                    self._complete = True
                elif not rows:
                    self._next_epoch()

    def folder(self) -> Folder:
        """All of its pictures.

        Raises:
            DataError: If the stream has none, or cannot be read on.
        """
        self.read(self._size)
        return self._stream.folder(self.start, self.shown, self.skipped)

    def _add(self, rows: list[tuple[Cursor, str, Row]]) -> None:
        how, reader = self._stream.how, self._reader
        for found in reader.map(lambda row: read_row(row[2], row[1], how, reader), rows):
            (self.skipped if isinstance(found, Skipped) else self.shown).append(found)  # type: ignore[arg-type]
        if rows:
            self.end = rows[-1][0]

    def _next_epoch(self) -> None:
        if (self.begin.shard, self.begin.row) == (0, 0):
            raise NothingUsable(
                "None of the pictures of the stream can be used",
                self._stream.path,
                self.skipped,
                "Look at the columns and at the pictures.",
            )
        self.begin = self.end = Cursor(self.begin.epoch + 1)
        self._rows = self._stream.rows(self.begin, self._seed)
