"""How a command hears that it is to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from finetune.signals import heard_by


class Ending:
    """Whether a signal asked this command to end.

    A library may turn the KeyboardInterrupt that it caused into an error of its own, which would pass
    for a fault of the model or the file it was reading.
    """

    def __init__(self) -> None:
        self.asked = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Ends what goes on."""
        self.asked = True
        raise KeyboardInterrupt


@contextmanager
def ending_by_signals() -> Iterator[Ending]:
    """Inside, the signals that ask to end are KeyboardInterrupts.

    While a run trains, it listens itself and writes a checkpoint first.
    """
    ending = Ending()
    with heard_by(ending.interrupt):
        yield ending
