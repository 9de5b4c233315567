"""How a command hears that it is to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ending_like_ctrl_c() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP (where there is one) are KeyboardInterrupts, as SIGINT is.

    SIGHUP tells that the terminal is gone; where it is ignored already, as by `nohup`, it stays so.
    While a run trains, it listens itself and writes a checkpoint first.
    """
    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is None or signal.getsignal(number) is signal.SIG_IGN:
            continue
        try:
            before[number] = signal.signal(number, _interrupt)
        except ValueError:  # not the main thread, which alone hears signals
            break
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
