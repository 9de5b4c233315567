"""What a cache on disk costs, at any size: `python -m benchmarks.cache 100000`.

Generated latents of SD 1.5 at 256 px (4x32x32, mean and standard deviation) are written; then another
process, like the next run, finds all of them and reads some.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import psutil
import torch

from finetune.data.cache import ContentCache, content_key

_READ = 5000


def main() -> None:
    """Prints seconds, processor seconds and the memory that each part added."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("entries", type=int, nargs="?", default=10_000)
    entries: int = parser.parse_args().entries
    with tempfile.TemporaryDirectory() as folder:
        for part in (_write, _read):
            process = get_context("spawn").Process(target=part, args=(Path(folder), entries))
            process.start()
            process.join()


def _write(folder: Path, entries: int) -> None:
    torch.set_num_threads(1)
    latents, cache = torch.randn(64, 2, 4, 32, 32), ContentCache(folder)
    with _measured(f"write {entries:,}"):
        for number in range(entries):
            mean, std = latents[number % 64]
            cache.put(content_key(str(number)), {"mean": mean, "std": std})
            cache.flush(if_due=True)
        cache.flush()


def _read(folder: Path, entries: int) -> None:
    keys = [content_key(str(number)) for number in range(entries)]
    with _measured(f"start with {entries:,}"):
        cache = ContentCache(folder)
        assert all(key in cache for key in keys)
        cache.mark_used(keys)
    some = random.Random(0).choices(keys, k=_READ)
    with _measured(f"read {_READ:,} at random"):
        assert all(cache.get(key) is not None for key in some)


@contextmanager
def _measured(what: str) -> Iterator[None]:
    process = psutil.Process()
    before, wall, spent = process.memory_info().rss, time.monotonic(), time.process_time()
    yield
    added = (process.memory_info().rss - before) / 2**20
    seconds, cpu = time.monotonic() - wall, time.process_time() - spent
    print(f"{what}: {seconds:.2f} s, {cpu:.2f} s of a processor, {added:+.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
