"""How much another busy process slows a training step: `python -m benchmarks.contention`.

Trains a LoRA alone, and beside a process that keeps one core busy, in turn. Since threads wait for each
other, a step may lose far more than that core's share.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from benchmarks.machine import describe, wait_until_quiet
from benchmarks.measure import ROOT, Run, add_arguments, ours, run, summary
from benchmarks.table import compared

ALONE, BESIDE = "alone", "beside a busy process"


@contextmanager
def busy_process() -> Iterator[None]:
    """Keeps one core busy with another process."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contention", description=__doc__)
    parser.add_argument("--model", default="storybook", help="as `finetune lora --model` takes it")
    add_arguments(parser, repeats=3)
    given = parser.parse_args()
    pictures = ("--instance-dir", "datasets/mycat", "--set", "preview.every=0")
    program = ours(ROOT, "lora", "--model", given.model, *pictures)
    runs: dict[str, list[Run]] = {ALONE: [], BESIDE: []}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as logs:
        for _ in range(given.repeats):
            for name, found in runs.items():
                wait_until_quiet(given.patience)
                with busy_process() if name == BESIDE else nullcontext():
                    found.append(run(program, given.steps, Path(logs, "run.log")))
    figures = {name: summary(found) for name, found in runs.items()}
    print("\n".join(f"{key}: {value}" for key, value in describe().items()), "", compared(figures), sep="\n")
    return 1 if any(one.failure for one in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
