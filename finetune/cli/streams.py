"""Standard output and error that never crash a command: closed, full, in another encoding, or unread.

What a run writes to the terminal matters less than the run.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

from finetune.files import shown

LONGEST = 2000
"""Maximum number of characters in a line for the user; the rest is left out."""


def printable(line: str) -> str:
    r"""One line as it may go to a terminal: control characters escaped (`\x1b`), long text cut."""
    if len(line) > LONGEST:
        line = f"{line[:LONGEST]} … ({len(line):,} characters)"
    return shown(line)


class _Steady(io.FileIO):
    """A file descriptor on which a write never fails."""

    def write(self, data: Any, /) -> int:
        """Writes what can be written, and reports it all as written."""
        with suppress(OSError):  # nobody reads it any more, or there is no room
            return super().write(data)
        return len(memoryview(data))


def steady_streams() -> None:
    """Makes `sys.stdout` and `sys.stderr` of this process such streams."""
    # The next file to be opened would get a closed descriptor, and be printed into.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = _steady(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _steady(sys.stderr, sys.__stderr__, 2)


def _steady(stream: TextIO | None, original: TextIO | None, descriptor: int) -> TextIO:
    if stream is not original:  # whoever captures it handles its errors
        assert stream is not None
        return stream
    if stream is not None:
        stream.flush()
    encoding = stream.encoding if stream is not None else "utf-8"
    raw = io.BufferedWriter(_Steady(descriptor, "wb", closefd=False))
    return io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=True)


def in_utf8(arguments: Sequence[str] | None) -> None:
    """Starts the command again in UTF-8 mode if the locale cannot encode its arguments (`LANG=C`).

    Args:
        arguments: None if they are the process's own; else nothing is done.
    """
    if arguments is None and sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "finetune", *sys.argv[1:]])
