"""What every campaign has: a place to work in, a number of attacks, and a verdict on each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
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
