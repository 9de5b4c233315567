"""How a command hears that it is to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
    """Inside, SIGINT, SIGTERM and SIGHUP (where there is one) are KeyboardInterrupts.

    SIGHUP tells that the terminal is gone; where it is ignored already, as by `nohup`, it stays so.
    While a run trains, it listens itself and writes a checkpoint first.
    """
    ending, before = Ending(), {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is None or signal.getsignal(number) is signal.SIG_IGN:
            continue
        try:
            before[number] = signal.signal(number, ending.interrupt)
        except ValueError:  # not the main thread, which alone hears signals
            break
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
