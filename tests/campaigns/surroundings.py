"""Failing surroundings: full disks, closed pipes, odd output folders, signals, too little memory."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from tests.campaigns.campaign import Campaign, Verdict
from tests.campaigns.child import Child, Ended
from tests.campaigns.runs import Runs, tree
from tests.tiny import tiny_backbone_folder

Before = Callable[[], None]
Fault = Callable[["Attacks", Path, random.Random], str | None]


def _largest_file(size: int) -> Before:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def _streams(**targets: str | None) -> Before:
    """Redirects standard output or error to files; None closes them."""

    def change() -> None:
        for name, target in targets.items():
            number = {"out": 1, "err": 2}[name]
            if target is None:
                os.close(number)
            else:
                os.dup2(os.open(target, os.O_WRONLY), number)

    return change


def _no_reader() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.dup2(writer, 2)


def full_disk(self: Attacks, folder: Path, draw: random.Random) -> str | None:
    """A full disk, in training."""
    size = int(10 ** draw.uniform(3, 6.5))
    ended = self.run("lora", folder, before=_largest_file(size))
    if ended.code == 0:
        return self.like_straight(folder)
    failure = ended.unexpected(2) or self.places(ended)
    # Whatever was written is intact: with free space the run resumes and ends in the same bytes.
    again = self.run("lora", folder, "--resume")
    return failure or again.unexpected(0) or self.like_straight(folder)


def full_disk_in_sample(self: Attacks, folder: Path, draw: random.Random) -> str | None:
    """A full disk, in sampling and exporting."""
    arguments = draw.choice((self.sample("out"), self.export("out")))
    ended = Child(arguments, folder, before=_largest_file(draw.choice((1000, 1500, 2000)))).wait()
    left = [path for path in tree(folder) if "partial" not in path]
    if ended.code == 2 and left:
        return f"left behind: {left}"
    return ended.unexpected(2) or self.places(ended)


def odd_place(self: Attacks, folder: Path, draw: random.Random) -> str | None:
    """An impossible output folder."""
    (folder / "afile").touch()
    place = draw.choice(("afile", "afile/sub", "/proc/x", "/sys/x", "x" * 300, "/dev/null/x"))
    arguments = draw.choice((
        ["run", str(self.runs.recipe("lora")), "--output-dir", place], self.sample(place), self.export(place)
    ))  # fmt: skip
    ended = Child(arguments, folder).wait()
    failure = ended.unexpected(2) or self.places(ended)
    return failure or (f"left behind: {tree(folder)}" if set(tree(folder)) != {"afile"} else None)


def streams(before: Before) -> Fault:
    """The attack of a run with other standard streams."""

    def attack(self: Attacks, folder: Path, draw: random.Random) -> str | None:
        """Standard streams that are closed, full or have no reader."""
        ended = self.run("lora", folder, before=before)
        return ended.unexpected(0) or self.like_straight(folder)

    return attack


STREAMS = (
    _streams(out=None), _streams(err=None), _streams(out=None, err=None), _streams(out="/dev/full"),
    _streams(out="/dev/full", err="/dev/full"), _no_reader,
)  # fmt: skip


def signals(self: Attacks, folder: Path, draw: random.Random) -> str | None:
    """A signal to end, at any moment."""
    number = draw.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    child = Child(["run", str(self.runs.recipe("lora"))], folder)
    time.sleep(0.2 + draw.random() * self.runs.straight("lora")[1])
    child.kill(number)
    ended = child.wait()
    failure = ended.unexpected(0, 130)
    if not failure and ended.code == 130 and not ended.err.strip():
        failure = "it ended without a message"
    again = self.run("lora", folder, *(["--resume"] if ended.code else []))
    return failure or again.unexpected(0) or (self.like_straight(folder) if ended.code else None)


# How libraries end a process that has no memory left, without an exception that could be caught.
_BEYOND_CATCHING = (
    (-signal.SIGABRT, "memory allocation of"),  # Rust
    (-signal.SIGABRT, "Fatal glibc error"),
    (127, "cannot allocate memory for thread-local data"),  # glibc
    # Python waits forever for a thread that could not begin (`Thread.start`); the child was killed.
    (-signal.SIGKILL, "Exception ignored in thread started by"),
)


def memory(self: Attacks, folder: Path, draw: random.Random) -> str | None:
    """Too little memory."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    size = now + int(10 ** draw.uniform(6, 8.5))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    ended = self.run("lora", folder, before=limit)
    if any(ended.code == code and words in ended.err for code, words in _BEYOND_CATCHING):
        return None
    return ended.unexpected(0, 2) or (self.places(ended) if ended.code else None)


FAULTS: tuple[Fault, ...] = (
    full_disk, full_disk_in_sample, odd_place, signals, memory, *map(streams, STREAMS)
)  # fmt: skip


class Attacks(Campaign):
    """Each attack runs one command in failing surroundings."""

    name: ClassVar[str] = "surroundings"
    small: ClassVar[int] = len(FAULTS)
    large: ClassVar[int] = 66

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.runs = Runs(place)
        self.model = tiny_backbone_folder("sd1", place / "again")
        self.straight, _ = self.runs.straight("lora")

    def attack(self, number: int) -> Verdict:
        """Causes fault `number` modulo the number of faults."""
        fault = FAULTS[number % len(FAULTS)]
        folder = self.place / f"fault-{number}"
        folder.mkdir()
        failure = fault(self, folder, random.Random(number))
        shutil.rmtree(folder)
        return Verdict((fault.__doc__ or "").rstrip(".").lower(), failure)

    def run(self, kind: str, folder: Path, *flags: str, before: Before | None = None) -> Ended:
        """Trains `kind` in `folder`."""
        return Child(["run", str(self.runs.recipe(kind)), *flags], folder, before=before).wait()

    def sample(self, out: str) -> list[str]:
        """Arguments that sample into `out`."""
        return ["sample", "a cat", "--model", str(self.model), "--steps", "2", "--output-dir", out]

    def export(self, out: str) -> list[str]:
        """Arguments that merge the LoRA of the undisturbed run into a model at `out`."""
        return ["export", str(self.place / "straight-lora/runs/mycat-lora"), "--to", "merged", "-o", out,
                "--model", str(self.model)]  # fmt: skip

    def places(self, ended: Ended) -> str | None:
        """A message must say where the problem is and how to fix it."""
        if "where:" in ended.err and "fix:" in ended.err:
            return None
        return None if "Out of memory" in ended.err else f"where or fix is missing: {ended.err}"

    def like_straight(self, folder: Path) -> str | None:
        """What differs from the results of the undisturbed run, or None."""
        found = tree(folder)
        wrong = [name for name, content in self.straight.items() if found.get(name) != content]
        return f"different from the undisturbed run: {', '.join(wrong)}" if wrong else None
