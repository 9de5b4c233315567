"""Heaps of broken files: each is trained on or named exactly once, and nothing hangs or fills the memory."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import random
import re
import resource
import shutil
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from tests.campaigns.campaign import Campaign, Verdict
from tests.campaigns.child import Ended, finetune
from tests.campaigns.litter import Litter, make_litter

FILES = 2_200
SECONDS = 300.0  # after which a command counts as hanging
MEMORY = 400e6  # bytes that a command may need besides the libraries; one of the files has 1.6 GB
QUICK = (*("--steps", "2", "--batch-size", "1", "--resolution", "32", "--set", "preview.every=0"),)
_ESCAPE = re.compile(r"\\(?:\\|[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4})")
# What would end a line, hide a part of it or turn it round, but for spaces.
_UNFIT = re.compile("[^\\S \n]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffd]")


class Attacks(Campaign):
    """Each attack makes a heap, checks it and trains on it."""

    name: ClassVar[str] = "heaps"
    small: ClassVar[int] = 1
    large: ClassVar[int] = 25

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        for module in ("check", "run"):  # here, not in every child
            import_module(f"finetune.recipes.{module}")

    def attack(self, number: int) -> Verdict:
        """Makes a heap from this seed and counts what the commands say about its files."""
        litter = make_litter(self.place / "my cat قطة", random.Random(number), FILES)
        try:
            failure = self._checked(litter) or self._trained(litter)
        finally:
            litter.remove()
        return Verdict("heap", failure)

    def _checked(self, litter: Litter) -> str | None:
        ended = self._run("check", litter.root, "--json")
        if failure := ended.unexpected(0) or _dear(ended):
            return failure
        report = json.loads(ended.out)
        named = [
            name
            for finding in report["findings"]
            if finding["name"] in ("skipped", "ignored", "orphans")
            for name in finding["files"]
        ]
        if report["pictures"] + len(named) != len(_expected(litter)):
            return f"{report['pictures']} + {len(named)} of {len(_expected(litter))} files are accounted for"
        return _wrong(litter, named)

    def _trained(self, litter: Litter) -> str | None:
        run = self.place / "run"
        ended = self._run("lora", "--instance-dir", litter.root, "--output-dir", run, *QUICK)
        if failure := ended.unexpected(0) or _dear(ended):
            return failure
        lines = (run / "skipped.txt").read_text(encoding="utf-8").split("\n")[:-1]
        skipped = [line.partition("\t") for line in lines]
        trained = [json.loads(line)["file"] for line in (run / "pictures.jsonl").open(encoding="utf-8")]
        shutil.rmtree(run)
        if without := [name for name, _, reason in skipped if not reason]:
            return f"without a reason: {without[:5]}"
        if unfit := [line for line in ended.out.split("\n") if _UNFIT.search(line)]:
            return f"not fit for a terminal: {unfit[:3]}"
        return _wrong(litter, [name for name, _, _ in skipped], trained)

    def _run(self, *arguments: str | Path) -> Ended:
        return finetune(
            *(*arguments, "--model", "storybook"),
            folder=self.place,
            before=_without_privileges,
            limit=SECONDS,
        )


def _expected(litter: Litter) -> set[Path]:
    """All that must be accounted for: of what is out of reach, the folder."""
    return litter.intact | litter.broken | litter.either | litter.out_of_reach


def _wrong(litter: Litter, named: Iterable[str], trained: Iterable[str] = ()) -> str | None:
    """What is wrong with the names of files that are left out, and of those that are trained on."""
    out, used = (Counter(_path(litter.root, name) for name in names) for names in (named, trained))
    broken = litter.broken | litter.out_of_reach
    for what, files in {
        "twice": {path for path, times in (out + used).items() if times > 1},
        "never made": {*out, *used} - _expected(litter),
        "broken, not named": broken - {*out},
        "broken, trained on": broken & {*used},
        "intact, left out": litter.intact & {*out},
        "not accounted for": used and _expected(litter) - {*out, *used},
    }.items():
        if files:
            return f"{what}: {len(files)}, such as {sorted(map(os.fsencode, files))[:3]}"
    return None


def _path(root: Path, name: str) -> Path:
    """The file that a name stands for: the other way round from what finetune does."""
    plain = _ESCAPE.sub(lambda match: str(ast.literal_eval(f"'{match[0]}'")), name)
    if _UNFIT.search(name) or "\n" in name:
        raise ValueError(f"not fit for a line: {name!r}")
    return root / plain


def _dear(ended: Ended) -> str | None:
    """Whether a command needed too much memory; it was forked from this process, so has what this has."""
    more = ended.memory - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{more / 1e6:.0f} MB of memory" if more > MEMORY else None


def _without_privileges() -> None:
    """Makes root a user who may not read what is forbidden (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    data = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable; twice, for 64 bits
    if libc.capget(header, data):
        return
    data[0] &= ~0b110
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")
