"""What every campaign has: a place to work in, a number of attacks, and a verdict on each."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import ClassVar


@dataclass(frozen=True)
class Verdict:
    """How one attack ended.

    Attributes:
        kind: What sort of attack it was; tries and failures are counted by it.
        failure: What went wrong, in a line or more; None if the program stood.
    """

    kind: str
    failure: str | None = None


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Inside, what takes longer than this is a TimeoutError."""

    def hangs(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


class Campaign(ABC):
    """One sort of attack.

    Attributes:
        name: What it is called on the command line.
        small: Attacks in `make test`: some seconds.
        large: Attacks in `make campaign`.

    Args:
        place: An empty folder to work in; what all attacks share is made here, once.
    """

    name: ClassVar[str]
    small: ClassVar[int]
    large: ClassVar[int]

    def __init__(self, place: Path) -> None:
        self.place = place

    @abstractmethod
    def attack(self, number: int) -> Verdict:
        """Carries out attack `number`, whose every draw follows from that number."""
