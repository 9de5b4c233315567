"""What all campaigns share: a working folder, a number of attacks, and a verdict on each."""

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
        kind: What kind of attack it was; attempts and failures are counted by it.
        failure: What went wrong, in one or more lines; None if the program withstood it.
    """

    kind: str
    failure: str | None = None


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError if the block takes longer than this."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


class Campaign(ABC):
    """One kind of attack.

    Attributes:
        name: Its name on the command line.
        small: Number of attacks in `make test`, a few seconds.
        large: Number of attacks in `make campaign`.

    Args:
        place: An empty folder to work in; what all attacks share is created here, once.
    """

    name: ClassVar[str]
    small: ClassVar[int]
    large: ClassVar[int]

    def __init__(self, place: Path) -> None:
        self.place = place

    @abstractmethod
    def attack(self, number: int) -> Verdict:
        """Carries out attack `number`, which seeds all of its random draws."""
