"""Kills at any moment: the resumed run writes the same files with the same bytes (promise P2)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from tests.campaigns.campaign import Campaign, Verdict
from tests.campaigns.child import Child
from tests.campaigns.runs import NAMES, Runs, difference, tree

# Audit events that Python raises before it changes files.
_OPERATIONS = frozenset(
    ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "shutil.rmtree")
)
_MOST = 140  # file operations below the working directory in the longest of these runs


class Attacks(Campaign):
    """Each attack kills a run one or more times and resumes it."""

    name: ClassVar[str] = "kills"
    small: ClassVar[int] = 6
    large: ClassVar[int] = 200

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._runs = Runs(place)

    def attack(self, number: int) -> Verdict:
        """Kills a run of one of the recipes, before a file operation or at a random time."""
        draw = random.Random(number)
        kind = NAMES[number % len(NAMES)]
        at_files, gentle = draw.random() < 0.6, draw.random() < 0.2
        sort = f"{kind}, {'before a file operation' if at_files else 'at a random time'}"
        wanted, seconds = self._runs.straight(kind)
        folder = self.place / f"kill-{number}"
        folder.mkdir()
        flags: list[str] = []
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            arguments = ["run", str(self._runs.recipe(kind)), *flags]
            if at_files:
                child = Child(arguments, folder, before=killed_before(draw.randrange(_MOST), folder))
            else:
                child = Child(arguments, folder)
                time.sleep(draw.random() * seconds)
                child.kill(signal.SIGTERM if gentle else signal.SIGKILL)
            ended = child.wait()
            if failure := ended.unexpected(-signal.SIGKILL, 130, 0):
                return Verdict(sort, failure)
            flags = ["--resume"]
        ended = self._runs.train(kind, folder, "--resume")
        failure = ended.unexpected(0) or difference(wanted, tree(folder))
        shutil.rmtree(folder)
        return Verdict(sort, failure)


def killed_before(number: int, folder: Path) -> Callable[[], None]:
    """For `Child(before=…)`: kills the child just before its file operation `number` below `folder`."""

    def begin() -> None:
        left = [number]

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event not in _OPERATIONS or not isinstance(arguments[0], str | os.PathLike):
                return
            if event == "open" and not _writes(arguments):
                return
            if not os.path.abspath(arguments[0]).startswith(str(folder)):
                return
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

        sys.addaudithook(hook)

    return begin


def _writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
