"""How a recipe tells the user what it does; the command line fills it in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.training.watcher import Watcher

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
        warning: Called with each line about what the user may not expect; None calls `tell`.
        watcher: Is told how training goes; None shows it on the terminal.
    """

    tell: Tell = print
    progress: Progress = no_progress
    warning: Tell | None = None
    watcher: Watcher | None = None

    @property
    def warn(self) -> Tell:
        """Where a line goes that says what the user may not expect."""
        return self.warning or self.tell


SILENT = Reporter(lambda line: None)
"""Tells nothing: only the main process talks."""
