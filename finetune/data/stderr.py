"""What C libraries write to standard error, caught."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STANDARD_ERROR = threading.Lock()
"""File descriptor 2 belongs to the whole process, so one thread at a time may redirect it."""


@contextmanager
def caught_lines(catch: bool = True) -> Iterator[list[str]]:
    """Catches the lines that are written to standard error inside.

    Args:
        catch: False does nothing.

    Yields:
        A list that holds the lines once the block has ended, also by an exception. What a pipe does not
            hold (64 KiB on Linux) is dropped.
    """
    lines: list[str] = []
    if not catch:
        yield lines
        return
    with _STANDARD_ERROR:
        try:
            before = os.dup(2)
        except OSError:  # there is no standard error
            yield lines
            return
        out, into = os.pipe()
        os.set_blocking(out, False)
        os.set_blocking(into, False)
        os.dup2(into, 2)
        os.close(into)
        try:
            yield lines
        finally:
            os.dup2(before, 2)
            os.close(before)
            with open(out, "rb") as file:
                lines += (file.read() or b"").decode(errors="replace").splitlines()
