"""Two runs at once: no result is lost, and no folder has two owners (promise P2)."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import ClassVar

from tests.campaigns.campaign import Campaign, Verdict
from tests.campaigns.child import Child
from tests.campaigns.runs import NAMES, Runs, tree


class Attacks(Campaign):
    """Each attack starts two runs at once, or one a moment after the other."""

    name: ClassVar[str] = "pairs"
    small: ClassVar[int] = 3
    large: ClassVar[int] = 20

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._runs = Runs(place)

    def attack(self, number: int) -> Verdict:
        """Automatic names, the same named folder, or a resume during a run."""
        draw = random.Random(number)
        sort = ("automatic names", "the same --output-dir", "--resume during it")[number % 3]
        kind = NAMES[number // 3 % len(NAMES)]
        wanted, seconds = self._runs.straight(kind)
        folder = self.place / f"pair-{number}"
        folder.mkdir()
        arguments = ["run", str(self._runs.recipe(kind))]
        named = ["--output-dir", f"runs/mycat-{kind}"] if sort != "automatic names" else []
        first = Child([*arguments, *named], folder)
        time.sleep(draw.choice((0.0, 0.0, draw.random() * seconds)))
        second = Child([*arguments, *named, *(["--resume"] if "resume" in sort else [])], folder)
        ended = [first.wait(), second.wait()]
        failure = next(filter(None, (end.unexpected(0, 2) for end in ended)), None)
        codes = [end.code for end in ended]
        if not failure and codes != [0, 0] and (not named or sorted(codes) != [0, 2]):
            failure = f"exit codes {codes}: {ended[0].err}{ended[1].err}"
        failure = failure or _results(wanted, tree(folder), kind, 1 if named else 2)
        if not failure and 2 in codes and "where" not in "".join(end.err for end in ended):
            failure = f"the message does not say where: {ended[0].err}{ended[1].err}"
        shutil.rmtree(folder)
        return Verdict(sort, failure)


def _results(wanted: dict[str, str], found: dict[str, str], kind: str, count: int) -> str | None:
    """What is wrong if a run of the pair did not write what an undisturbed run does, or None."""
    run = f"runs/mycat-{kind}"
    for folder in (run, f"{run}-2")[:count]:
        for name, content in wanted.items():
            # Only checkpoints: a second run's exports contain its own folder's name.
            if name.startswith(f"{run}/checkpoints/") and found.get(name.replace(run, folder, 1)) != content:
                return f"{name} of {folder} is missing or differs"
    left = [name for name in found if name.endswith((".partial", ".lock"))]
    return f"left behind: {', '.join(left)}" if left else None
