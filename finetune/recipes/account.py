"""What a run writes about itself: its settings, its pictures, what was said of them, and why it failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune.data import PictureSource, PriorSource
from finetune.data.notes import NAMED
from finetune.data.record import write_record, write_skipped
from finetune.data.streams.source import StreamSource
from finetune.errors import FinetuneError, Interrupted, of_the_system
from finetune.files import whole_file
from finetune.recipes.base import Recipe
from finetune.training import RunFolder


def write_account(
    folder: RunFolder,
    recipe: Recipe,
    source: PictureSource | PriorSource | StreamSource,
    summary: Sequence[str],
) -> None:
    """Writes what the run is, before its first step; an earlier failure is forgotten.

    Args:
        folder: The run's.
        recipe: The resolved recipe.
        source: What it is trained on.
        summary: What the user was told about that.
    """
    recipe.save_in(folder)
    write_record(folder.pictures, source.record())
    if len(left_out := source.folder.left_out) > NAMED:
        write_skipped(folder.skipped, left_out)
    _write(folder.summary, summary)
    folder.failure.unlink(missing_ok=True)


@contextmanager
def failure_told(folder: RunFolder, *, main: bool) -> Iterator[None]:
    """Inside, what goes wrong is also written into the run folder; what the user stops is no failure.

    Args:
        folder: The run's; nothing is written before it holds a recipe.
        main: Whether this is the process that writes.
    """
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        known = error if isinstance(error, FinetuneError) else of_the_system(error)
        if main and folder.recipe.exists():
            with suppress(OSError):  # the disk may be what failed
                _write(folder.failure, [str(known) if known else f"{type(error).__name__}: {error}"])
        raise


def _write(path: Path, lines: Sequence[str]) -> None:
    with whole_file(path) as aside:
        aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")
