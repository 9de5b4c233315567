"""What the command line writes to the terminal."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from finetune.cli.streams import printable
from finetune.cli.style import as_json, event, style
from finetune.errors import FinetuneError, UserError

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
    """Writes one line about the work; control characters, as from a name or a caption, are escaped."""
    _tell(line, "message")


def tell_warning(line: str) -> None:
    """Writes one line about what the user may not expect."""
    _tell(line, "warning")


def tell_answer(line: str) -> None:
    """Writes one line of what the user asked for, which also `--quiet` does not keep back."""
    _tell(line, "answer")


def tell_end(line: str, files: Collection[Path], folder: Path | None = None, **facts: Any) -> None:
    """Writes the last line of a command: what it has written.

    Args:
        line: For people; nothing if empty.
        files: What was written; a mapping says what each is for.
        folder: Where they are, to be told in place of them with `--quiet`.
        facts: More for programs.
    """
    if style() == "json":
        uses = files if isinstance(files, Mapping) else {}
        listed = [{"path": path, **({"use": uses[path]} if path in uses else {})} for path in files]
        place = {"folder": folder} if folder else {}
        event("end", **({"text": line} if line else {}), **place, **facts, files=listed)
    elif style() == "quiet":
        for path in [folder] if folder else files:
            print(printable(str(path)), flush=True)
    elif line:
        print(printable(line), flush=True)


def _tell(line: str, kind: str) -> None:
    if style() == "json":
        event(kind, text=line)
    elif style() == "full" or kind == "answer":
        print(printable(line), flush=True)


def tell_failure(error: Exception) -> None:
    """Writes to stderr why a command failed; for programs as JSON with `what`, `where` and `fix`.

    Args:
        error: One of ours, or any other, which is a fault of this program.
    """
    told = error
    if not isinstance(error, FinetuneError):
        what = f"finetune failed unexpectedly: {type(error).__name__}: {error}"
        told = UserError(what, fix="Run again with FINETUNE_DEBUG=1 and report what it prints.")
    if style() != "json":
        tell_error(str(told))
        return
    parts: dict[str, str | None] = {"what": str(told)}
    if isinstance(told, UserError):
        parts = {"what": told.what, "where": told.where, "fix": told.fix}
    facts = {"event": "error", "kind": type(error).__name__, **parts, "exit_code": exit_code(error)}
    print(as_json(facts), file=sys.stderr, flush=True)


def exit_code(error: Exception) -> int:
    """The exit code that an error ends the command with."""
    return error.exit_code if isinstance(error, FinetuneError) else 1


def tell_error(message: str) -> None:
    """Writes one message to stderr, its first line marked as an error (red in a terminal)."""
    mark = "\033[1;31mError:\033[0m" if sys.stderr.isatty() and "NO_COLOR" not in os.environ else "Error:"
    message = "\n".join(printable(line) for line in message.split("\n"))
    print(f"{mark} {message}", file=sys.stderr, flush=True)


def size(count: int) -> str:
    """A number of bytes for people, such as `4.2MB`."""
    from pydantic import ByteSize  # here, so that --help is fast

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


_WIDE = 76  # columns that a bar needs besides the words


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
    """Shows the progress of long work: a bar in a terminal, else a plain line or event from time to time.

    Args:
        label: What is being done.
        every: Seconds between plain lines; work that is done sooner shows none.

    Yields:
        A function to call with the number of things done and their total.
    """
    if style() == "quiet":
        yield lambda done, total: None
        return
    if style() == "json":
        yield _events(label)
        return
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        console = Console(file=sys.stdout)
        bars = [BarColumn(None)] if console.width >= _WIDE else []  # words matter more
        columns = (TextColumn("{task.description}"), *bars, MofNCompleteColumn())
        with Bar(*columns, TextColumn("{task.fields[pace]}"), console=console, transient=True) as bar:
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


def _events(label: str, every: float = 1.0) -> Progress:
    """Writes progress as events, one a second, and the last."""
    last = -every

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every or done >= total:
            last = now
            event("progress", label=label, done=done, total=total)

    return report
