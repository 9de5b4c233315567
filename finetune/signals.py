"""The signals that ask a process to end, heard by whoever has something to finish first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Windows has no SIGHUP, which tells that the terminal is gone.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def heard_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, `handler` gets SIGINT, SIGTERM and SIGHUP; afterwards the former handlers are back.

    What is ignored stays so, as SIGHUP under `nohup`. Only the main thread hears signals: in another
    one nothing is heard.
    """
    before = {}
    try:
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
