"""What a run shows on the terminal, and the signals that stop it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from finetune.signals import heard_by
from finetune.training.bar import Line, Spark, clock, rate
from finetune.training.pictures import ROWS, Shown, pictures_here
from finetune.training.watcher import Event, Now, Watcher

PLAIN_SECONDS = 15.0
"""How often a plain line is printed where output is not a terminal."""


class Progress(Watcher):
    """A bar with loss, rate, time left and memory on stderr; plain lines where that is not a terminal."""

    def __init__(self) -> None:
        self._printed = time.monotonic()
        self._spark = Spark()
        self._live: Live | None = None
        self._pictures: Shown | None = None

    def begin(self, folder: Path, steps: int, done: int) -> None:
        """Starts the bar."""
        self._printed, self._spark = time.monotonic(), Spark()
        console = Console(file=sys.stderr)
        # `FORCE_COLOR` makes rich take a file for a terminal.
        if console.is_interactive and sys.stderr.isatty():
            self._pictures = pictures_here()
            self._live = Live(
                Text(f"step {done}/{steps}"),
                console=console,
                redirect_stdout=sys.stdout.isatty(),  # else a pipe would lose what is printed
            )
            self._live.start()

    def advance(self, now: Now) -> None:
        """Shows how far the run is."""
        at = time.monotonic()
        if now.loss is not None:
            self._spark.add(now.loss)
        if self._live:
            self._live.update(Line(now, self._spark, at))
            return
        if at - self._printed >= PLAIN_SECONDS or now.step >= now.steps:
            self._printed = at
            loss = f"loss {now.loss:.4f}  " if now.loss is not None else ""
            self._say(
                f"step {now.step}/{now.steps}  {loss}{rate(now.images_per_second)}  "
                f"{clock(now.seconds_left)} left"
            )

    def happened(self, step: int, what: Event | None) -> None:
        """Says what the validation found, and shows previews where that is possible."""
        if what and what.loss is not None:
            self._say(f"step {step}  validation loss {what.loss:.4f}")
        if what and what.kind == "preview" and what.path and self._live and self._pictures:
            self._say(f"step {step}  {what.path}")
            try:
                self._live.console.print(self._pictures(what.path), height=ROWS)
            except Exception as error:  # whatever the library makes of this terminal, the run goes on
                self._pictures = None
                self._say(f"Previews cannot be shown here: {type(error).__name__}: {error}")

    def stopping(self) -> None:
        """Says that it was heard."""
        self._say("\nfinishing this step and writing a checkpoint …")

    def end(self) -> None:
        """Leaves the bar as it stands."""
        if self._live:
            self._live.stop()
            self._live = None

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # a bar moves below it


class StopSignal:
    """Records signals to stop instead of dying, so that a checkpoint can be written first.

    A second signal stops at once.

    Args:
        heard: Called at the first one.
    """

    def __init__(self, heard: Callable[[], None]) -> None:
        self.asked, self._heard = False, heard

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._heard()


@contextmanager
def stop_signal(heard: Callable[[], None]) -> Iterator[StopSignal]:
    """Inside, a `StopSignal` listens."""
    stop = StopSignal(heard)
    with heard_by(stop.handle):
        yield stop
