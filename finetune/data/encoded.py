"""Pictures and captions as an encoder gives them, each encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from finetune.data.cache import ContentCache, Row

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with the number of things done and their total."""


def chunked(things: Iterable[T], most: int) -> Iterator[list[T]]:
    """The things in lists of at most so many."""
    rest = iter(things)
    while chunk := list(islice(rest, most)):
        yield chunk


class _Report:
    """Progress of things of which some were known before.

    Attributes:
        each: How many are done, by all processes, when this one has encoded one.
    """

    def __init__(self, progress: Progress | None, total: int, known: int) -> None:
        self._progress, self._total, self._done = progress, total, float(known)
        self.each = 1.0
        if known:
            self(0)

    def __call__(self, count: int) -> None:
        self._done += count * self.each
        if self._progress:
            self._progress(round(self._done), self._total)


def _processes() -> PartialState | None:
    """The processes of this run, if there are several."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    from accelerate import PartialState

    return PartialState()


class Encoded(Generic[T]):
    """Things as an encoder gives them, each encoded once if there is a cache.

    Args:
        encode: From some things to the tensors of each.
        key: Of a thing, from all that its tensors depend on.
        cache: Where they are kept; None to encode them every time.

    Attributes:
        found: How many things the cache on disk had when they were prepared, and of how many.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[T]], list[Row]],
        key: Callable[[T], str],
        cache: ContentCache | None,
    ) -> None:
        self._encode, self._key, self._cache = encode, key, cache
        self.found: tuple[int, int] | None = None

    def prepare(self, chunks: Iterable[Sequence[T]], progress: Progress | None = None) -> None:
        """Fills the cache, if there is one; several processes share the work if it is on disk.

        Args:
            chunks: What is encoded together, without what the cache has.
            progress: Called with the number of things that are done and their total.

        Raises:
            ConfigError: If the cache cannot be written.
        """
        if (cache := self._cache) is None:
            return
        keyed = [[(self._key(thing), thing) for thing in chunk] for chunk in chunks]
        known = [key for chunk in keyed for key, _ in chunk if key in cache]
        total = sum(map(len, keyed))
        cache.mark_used(known)
        if cache.directory is not None:
            self.found = len(known), total
        # Always in the same chunks, and written in whole ones: matrix products of another batch size may
        # round differently, and an interrupted preparation must end in the same bytes.
        lacking = [new for chunk in keyed if (new := [pair for pair in chunk if pair[0] not in cache])]
        report = _Report(progress, total, len(known))
        state = _processes() if cache.directory is not None else None
        if state is None:
            self._fill(cache, lacking, report)
            cache.flush()
            return
        state.wait_for_everyone()  # all have seen the same, so that they agree on what is whose
        own = lacking[state.process_index :: state.num_processes]
        report.each = sum(map(len, lacking)) / max(1, sum(map(len, own)))
        self._fill(cache, own, report)
        cache.flush()
        state.wait_for_everyone()
        cache.flush()  # learns what the others wrote
        # Nothing, unless other processes do not see each other's files.
        self._fill(cache, lacking, _Report(None, 0, 0))
        cache.flush()

    def rows(self, things: Sequence[T]) -> list[Row]:
        """The tensors of each thing, those that the cache lacks encoded one by one."""
        if self._cache is None:
            return self._encode(things)
        return [self._row(self._cache, thing) for thing in things]

    def _row(self, cache: ContentCache, thing: T) -> Row:
        key = self._key(thing)
        if (row := cache.get(key)) is None:
            (row,) = self._encode([thing])
            cache.put(key, row)
            cache.flush(if_due=True)
        return row

    def _fill(self, cache: ContentCache, chunks: Sequence[Sequence[tuple[str, T]]], report: _Report) -> None:
        for chunk in chunks:
            # Another run that uses the same folder may have been faster.
            new = {key: thing for key, thing in chunk if key not in cache}
            rows = self._encode(list(new.values())) if new else []
            for key, row in zip(new, rows, strict=True):
                cache.put(key, row)
            cache.flush(if_due=True)
            report(len(chunk))
