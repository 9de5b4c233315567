"""How a recipe tells the user what it does; the command line fills it in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

Tell = Callable[[str], None]
Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


def no_progress(label: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """Shows nothing."""
    return nullcontext(lambda done, total: None)


@dataclass(frozen=True)
class Reporter:
    """Where lines and progress go.

    Attributes:
        tell: Called with each line for the user.
        progress: Opens a progress bar with a label; it yields a function to call with the number of
            things done and their total.
    """

    tell: Tell = print
    progress: Progress = no_progress


SILENT = Reporter(lambda line: None)
"""Tells nothing: only the main process talks."""
