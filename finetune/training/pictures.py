"""Pictures in terminals that can show them (kitty's protocol, sixel), by an optional extra, textual-image."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import RenderableType

ROWS = 16
"""Most rows that a picture takes."""

Shown = Callable[[Path], RenderableType]


def pictures_here() -> Shown | None:
    """What makes a picture file something to print; None where the terminal or the library cannot show any.

    The terminal is asked, once, which takes up to three tenths of a second.
    """
    if not _may_ask():
        return None
    try:
        from textual_image import renderable  # asks when it is imported
    except ImportError:
        return None
    if renderable.Image not in (renderable.SixelImage, renderable.TGPImage):
        return None  # blocks of color would not show what a preview is for
    return lambda path: renderable.Image(path, width="auto", height="auto")


def _may_ask() -> bool:
    """Whether the answer would come to this process; a background job that reads would be stopped."""
    streams = (sys.__stdin__, sys.__stdout__, sys.stderr)
    if sys.platform == "win32" or not all(stream and stream.isatty() for stream in streams):
        return False
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
