"""The signals that ask a process to end, handled by whoever has something to finish first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Windows has no SIGHUP, which says that the terminal is gone.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def heard_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, `handler` gets SIGINT, SIGTERM and SIGHUP; afterwards the previous handlers are restored.

    Ignored signals stay ignored, as SIGHUP under `nohup`. Only the main thread gets signals; in any
    other this does nothing.
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
        for number, previous in before.items():
            signal.signal(number, previous)
