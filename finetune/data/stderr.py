"""What C libraries write to standard error, caught."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STANDARD_ERROR = threading.Lock()
"""File descriptor 2 belongs to the whole process, so one thread at a time may redirect it."""


@contextmanager
def caught_lines(lines: list[str], catch: bool = True) -> Iterator[None]:
    """Catches the lines that are written to standard error inside.

    Args:
        lines: They are added to it when the block ends, also by an exception. What a pipe does not hold
            (64 KiB on Linux) is dropped.
        catch: False does nothing.
    """
    if not catch:
        yield
        return
    with _STANDARD_ERROR:
        try:
            before = os.dup(2)
        except OSError:  # there is no standard error
            yield
            return
        out, into = os.pipe()
        os.set_blocking(out, False)
        os.set_blocking(into, False)
        os.dup2(into, 2)
        os.close(into)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            with open(out, "rb") as file:
                lines += (file.read() or b"").decode(errors="replace").splitlines()
