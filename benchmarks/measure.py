"""Runs training commands for some steps, each in a process of its own, and sums up what they needed."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

from benchmarks.machine import wait_until_quiet

ROOT = Path(__file__).resolve().parent.parent
HOOK = ROOT / "benchmarks" / "hook.py"
OUT = "{out}"
"""Stands for a new folder in a program's arguments; it is removed after the run."""


def add_arguments(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Adds the options that all comparisons have: `steps`, `repeats` (with this default) and `patience`."""
    words = "steps of each run, at least 2 (default: %(default)s)"
    parser.add_argument("--steps", type=at_least(2), default=10, help=words)
    words = "runs of each (default: %(default)s)"
    parser.add_argument("--repeats", type=at_least(1), default=repeats, help=words)
    words = "seconds to wait for a quiet machine before each run (default: %(default)s)"
    parser.add_argument("--patience", type=int, default=240, help=words)


def at_least(least: int) -> Callable[[str], int]:
    """A type of argparse's: a whole number that is not below `least`."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is too few; give {least} or more")
        return int(text)

    return number


@dataclass(frozen=True)
class Program:
    """A training command.

    Attributes:
        python: The interpreter of its environment.
        arguments: A file or `-m`, a module; then its arguments, in which `OUT` may stand.
        folder: Where it runs.
        environment: Variables added to those of this process.
    """

    python: Path
    arguments: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What one process needed.

    Attributes:
        steps: Seconds of each step but the first.
        first: Seconds from the start of the process to the end of its first step.
        memory: Peak of the resident memory in GiB.
        gpu: Peak of the GPU memory in GiB.
        elsewhere: Cores that others kept busy during these steps.
        failure: Why there are no figures.
    """

    steps: tuple[float, ...] = ()
    first: float = 0.0
    memory: float = 0.0
    gpu: float = 0.0
    elsewhere: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class Summary:
    """Medians over the runs of a program, in the units of `Run`; `low` and `high` are of the runs' steps."""

    step: float = 0.0
    low: float = 0.0
    high: float = 0.0
    first: float = 0.0
    memory: float = 0.0
    gpu: float = 0.0
    elsewhere: float = 0.0
    failure: str = ""


def ours(tree: Path, *arguments: str) -> Program:
    """A command of this program.

    Args:
        tree: Root of the tree whose package is run, and where it runs.
        arguments: What follows `finetune`, without `--output-dir`.
    """
    command = ("-m", "finetune", *arguments, "--output-dir", OUT)
    return Program(Path(sys.executable), command, tree, {"PYTHONPATH": str(tree)})


def run(program: Program, steps: int, log: Path) -> Run:
    """Runs a program until it has taken some steps.

    Args:
        program: What is run; it should be set to train longer.
        steps: At least 2, since the first is told apart.
        log: Where its output goes; the steps go beside it, to a `.jsonl` file.
    """
    noted = log.with_suffix(".jsonl")
    noted.unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as out,
        log.open("w", encoding="utf-8") as output,
    ):
        arguments = [argument.replace(OUT, f"{out}/run") for argument in program.arguments]
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                [program.python, HOOK, noted, str(steps), *arguments],
                cwd=program.folder,
                env={**os.environ, **program.environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return Run(failure=f"cannot be started: {error.filename}: {error.strerror}")
        try:
            code = process.wait()
        finally:  # also what it started, and when this process is interrupted
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    lines = noted.read_text(encoding="utf-8").splitlines() if noted.exists() else []
    if code or len(lines) < 2:
        return Run(failure=f"exit code {code} after {len(lines)} steps: {last_words(log)}")
    return of_steps([json.loads(line) for line in lines], began)


def last_words(log: Path) -> str:
    """The last error in a log and up to two lines after it, such as what fixes it; else its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [" ".join(line.split()) for line in lines if line.strip()] or ["it said nothing"]
    begin = max((number for number, line in enumerate(said) if "Error" in line), default=len(said) - 1)
    return " ".join(said[begin : begin + 3])


def of_steps(lines: Sequence[Mapping[str, float]], began: float) -> Run:
    """The figures of a process from the lines of its `benchmarks.hook.StepLog`.

    Args:
        lines: At least two.
        began: When the process was started, on the same clock.
    """
    begin, end = lines[0], lines[-1]
    return Run(
        steps=tuple(later["time"] - sooner["time"] for sooner, later in pairwise(lines)),
        first=begin["time"] - began,
        memory=end["memory"],
        gpu=end["gpu"],
        elsewhere=max(0.0, end["elsewhere"] - begin["elsewhere"]) / (end["time"] - begin["time"]),
    )


def in_turn(
    programs: Mapping[str, Program],
    steps: int,
    repeats: int,
    logs: Path,
    patience: float,
    tell: Callable[[str], None] = print,
) -> dict[str, list[Run]]:
    """Runs programs one after the other, again and again, so that slow changes of the machine hit all alike.

    Args:
        programs: By name; one that has failed is not run again.
        steps: As for `run`.
        repeats: How often each is run.
        logs: Folder of the processes' output.
        patience: How many seconds to wait for a quiet machine, before each run.
        tell: Called with a line after each run.
    """
    logs.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Run]] = {name: [] for name in programs}
    for repeat in range(repeats):
        for name, program in programs.items():
            if any(one.failure for one in found[name]):
                continue
            wait_until_quiet(patience)
            one = run(
                program, steps, logs / f"{''.join(c if c.isalnum() else '-' for c in name)}-{repeat}.log"
            )
            found[name].append(one)
            tell(f"{name}, {repeat + 1} of {repeats}: {one.failure or f'{median(one.steps):.3f} s a step'}")
    return found


def summary(runs: Sequence[Run]) -> Summary:
    """Medians over all runs of a program; a failure if any of them failed."""
    for one in runs:
        if one.failure:
            return Summary(failure=one.failure)
    each = [median(one.steps) for one in runs]
    return Summary(
        step=median(each),
        low=min(each),
        high=max(each),
        first=median(one.first for one in runs),
        memory=median(one.memory for one in runs),
        gpu=median(one.gpu for one in runs),
        elsewhere=mean(one.elsewhere for one in runs),
    )
