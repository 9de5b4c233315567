"""What the command line writes to the terminal."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from pydantic import ByteSize

from finetune.cli.streams import printable

Progress = Callable[[int, int], None]
_LIBRARIES = ("accelerate", "bitsandbytes", "diffusers", "huggingface_hub", "peft", "torch", "transformers",
              "xformers")  # fmt: skip


def quiet_libraries() -> None:
    """Keeps the warnings of libraries from the user, who can do nothing about them.

    An environment variable that is already set stays as it is.
    """
    for name, value in {
        "BITSANDBYTES_NOWELCOME": "1",
        "DIFFUSERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore")
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.ERROR)


def quiet_loading() -> None:
    """Turns off the progress bars that the libraries show while a model is loaded; imports them."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()


def tell(line: str) -> None:
    """Writes one line for the user; control characters, as from a name or a caption, are escaped."""
    print(printable(line), flush=True)


def tell_error(message: str) -> None:
    """Writes one message to stderr, its first line marked as an error (red in a terminal)."""
    mark = "\033[1;31mError:\033[0m" if sys.stderr.isatty() and "NO_COLOR" not in os.environ else "Error:"
    message = "\n".join(printable(line) for line in message.split("\n"))
    print(f"{mark} {message}", file=sys.stderr, flush=True)


def size(count: int) -> str:
    """A number of bytes for people, such as `4.2MB`."""
    return ByteSize(count).human_readable(decimal=True)


def table(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Lines of a table, columns two spaces apart.

    Args:
        rows: Cells, the headings first.
        right: The columns that are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [f"{{:{'>' if place in right else '<'}{width}}}" for place, width in enumerate(widths)]
    return ["  ".join(aligned).format(*row).rstrip() for row in rows]


class Pace:
    """How fast work is done, and how long the rest will take, in words.

    It is counted from the first call, so that what was done before at once, as from a cache, does not count.
    """

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int, now: float) -> str:
        """E.g. "3.2/s, 0:01:30 left"; empty where it is not known yet.

        Args:
            done: The number of things done.
            total: Their total.
            now: Seconds of a clock.
        """
        before, start = self._first = self._first or (done, now)
        if done <= before or now <= start:
            return ""
        rate = (done - before) / (now - start)
        left = timedelta(seconds=round((total - done) / rate))
        return f"{rate:.1f}/s, {left} left" if rate >= 1 else f"{1 / rate:.1f} s each, {left} left"


@contextmanager
def progress(label: str, every: float = 10.0) -> Iterator[Progress]:
    """Shows the progress of long work: a bar in a terminal, else a plain line from time to time.

    Args:
        label: What is being done.
        every: Seconds between plain lines; work that is done sooner shows none.

    Yields:
        A function to call with the number of things done and their total.
    """
    if sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Bar(*columns, TextColumn("{task.fields[pace]}"), transient=True) as bar:
            task, pace = bar.add_task(label, total=None, pace=""), Pace()
            yield lambda done, total: bar.update(
                task, completed=done, total=total, pace=pace(done, total, time.monotonic())
            )
        return
    last, pace = time.monotonic(), Pace()

    def plain(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        words = pace(done, total, now)
        if now - last >= every:
            last = now
            tell(f"{label}: {done}/{total}" + (f", {words}" if words else ""))

    yield plain
