"""Previews in terminals that can show pictures."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from finetune.training import pictures

CODE = f"""
import runpy, sys
from pathlib import Path
from rich.console import Console
shown = runpy.run_path({pictures.__file__!r})["pictures_here"]()
Console().print(shown(Path("a.png")) if shown else "cannot", height=4)
"""


def printed(folder: Path, answer: bytes) -> bytes:
    """What a terminal gets that answers so when it is asked what it can do (DA1 of a VT220)."""
    Image.effect_mandelbrot((64, 32), (-2, -1, 1, 1), 20).save(folder / "a.png")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 480, 384))
    child = subprocess.Popen(
        [sys.executable, "-c", CODE],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "60"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    got = b""
    try:
        while chunk := os.read(ours, 65536):
            got += chunk
            if b"\x1b[c" in chunk:
                os.write(ours, answer)
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert child.wait() == 0, got
    return got


@pytest.mark.skipif(not find_spec("textual_image"), reason="needs the extra `terminal`")
def test_a_terminal_with_sixels_gets_a_picture(tmp_path: Path) -> None:
    assert b"\x1bP" in printed(tmp_path, b"\x1b[?62;4c")


def test_a_terminal_without_gets_none(tmp_path: Path) -> None:
    assert printed(tmp_path, b"\x1b[?62;1c").endswith(b"cannot\r\n")


def test_a_pipe_is_not_asked() -> None:
    assert pictures.pictures_here() is None
