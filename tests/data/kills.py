"""Fills a cache again and again in processes that are killed: `python -m tests.data.kills FOLDER`."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from finetune.data import cache as cache_module
from finetune.data.cache import ContentCache, Row, content_key
from finetune.data.encoded import Encoded, chunked

THINGS = range(400)


def row(thing: int) -> Row:
    """What the encoder makes of a thing."""
    return {"x": torch.full((2000 + thing % 7,), float(thing))}


def filler(folder: Path, encoded: list[int]) -> Encoded[int]:
    """Encodes things into a cache with many small files, and notes which."""

    def encode(things: Sequence[int]) -> list[Row]:
        encoded.extend(things)
        return [row(thing) for thing in things]

    return Encoded(encode, lambda thing: content_key(str(thing)), ContentCache(folder))


def started(folder: Path) -> int:
    """A process that fills the cache."""
    if pid := os.fork():
        return pid
    filler(folder, []).prepare(chunked(THINGS, 3))
    os._exit(0)


def main(folder: Path) -> None:
    """Two processes at a time; both are killed at any moment, then one of the two that go on."""
    cache_module._ROWS_A_FILE = 5
    draw = random.Random(0)
    begin = time.monotonic()
    os.waitpid(started(folder / "straight"), 0)
    seconds = time.monotonic() - begin
    killed = 0
    for attempt in range(12):
        place = folder / "latents" / str(attempt // 2)  # of each two, the second goes on with what is left
        pids = [started(place), started(place)]
        for pid in pids[attempt % 2 :]:
            time.sleep(draw.random() * seconds / 4)
            os.kill(pid, signal.SIGKILL)
        killed += sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
        wanted, again = THINGS[:: 1 + attempt], list[int]()
        for thing, found in zip(wanted, filler(place, again).rows(wanted), strict=True):
            assert torch.equal(found["x"], row(thing)["x"]), thing
        assert not again or attempt % 2 == 0, "the one that was not killed had finished"
    assert killed >= 10, killed


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
