"""Survivors that are known: what no test can tell from the original, by the list `known.txt`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LIST = Path(__file__).with_name("known.txt")
EVERYWHERE = "everywhere"
# Three words or more are for people. Shorter texts may name what is drawn at random, where letters count.
SENTENCE = re.compile(r'"[^" ]* [^" ]* [^"]*"')


@dataclass
class Entry:
    """One line of code and what it may become unnoticed; a regular expression if `file` is EVERYWHERE."""

    file: str
    reason: str
    was: str = ""
    now: list[str] = field(default_factory=list)


def entries() -> Iterator[Entry]:
    """All that is listed. Blank lines part the entries of a file, whose name begins with `== `."""
    _, *files = re.split(r"^== ", LIST.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for text in files:
        file, *blocks = text.strip().split("\n\n")
        for block in blocks:
            reason, *lines = block.split("\n- ")
            was, *now = lines[0].split("\n+ ")
            yield Entry(file, reason.replace("\n", " "), was, now)


class Known:
    """Tells whether a change is listed, is of a kind that is, or is one of words for people."""

    def __init__(self) -> None:
        listed = list(entries())
        self.single = {(e.file, e.was, now) for e in listed for now in e.now if e.file != EVERYWHERE}
        self.kinds = [(re.compile(e.was), now) for e in listed for now in e.now if e.file == EVERYWHERE]

    def has(self, file: str, was: str, now: str) -> bool:
        """Whether `file`'s line `was` may become `now`."""
        if (file, was, now) in self.single or SENTENCE.sub("", was) == SENTENCE.sub("", now):
            return True
        return any(
            was[: found.start()] + found.expand(instead) + was[found.end() :] == now
            for pattern, instead in self.kinds
            for found in pattern.finditer(was)
        )
