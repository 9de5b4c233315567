"""A real terminal for tests: a pseudo-terminal in this process, and what a person would see in it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import termios
from typing import TextIO

_CODES = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


class Terminal:
    """The screen of a pseudo-terminal.

    Attributes:
        stream: Where a program writes to it.
        longest: The longest line that was ever written, in columns; more than its width would wrap.
    """

    def __init__(self, width: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        self.stream: TextIO = os.fdopen(slave, "w", encoding="utf-8", buffering=1)
        self.longest, self._raw = 0, b""

    @property
    def lines(self) -> list[str]:
        """What stands in it, without empty lines."""
        while select.select([self._master], [], [], 0)[0]:
            self._raw += os.read(self._master, 65536)
        lines, row, column = [""], 0, 0
        for found in _CODES.finditer(self._raw.decode()):
            text, (argument, code) = found[0], (found[1], found[2])
            if text == "\r":
                column = 0
            elif text == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif code == "K":
                lines[row] = "" if argument == "2" else lines[row][:column]
            elif code == "A":
                row -= int(argument or 1)
            elif code is None:
                lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
                column += len(text)
                self.longest = max(self.longest, column)
        return [line.rstrip() for line in lines if line.strip()]

    def close(self) -> None:
        """Gives it back."""
        self.stream.close()
        os.close(self._master)
