"""How a command learns that it should end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from finetune.signals import heard_by


class Ending:
    """Whether a signal asked this command to end.

    A library may turn the KeyboardInterrupt into an error of its own, which would look like a fault of
    the model or the file it was reading.
    """

    def __init__(self) -> None:
        self.asked = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Interrupts what is running."""
        self.asked = True
        raise KeyboardInterrupt


@contextmanager
def ending_by_signals() -> Iterator[Ending]:
    """Inside, the signals that ask a process to end raise KeyboardInterrupt.

    During training the run handles them itself and writes a checkpoint first.
    """
    ending = Ending()
    with heard_by(ending.interrupt):
        yield ending
