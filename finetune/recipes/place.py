"""Where a run goes: a new folder, or the one to resume; an old result is never overwritten (P2).

A run folder has one owner at a time. Its lock is the operating system's, so a killed process
releases it at once.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from finetune.errors import ConfigError
from finetune.files import is_partial, remove_partials
from finetune.recipes.base import Recipe

RUNS = Path("runs")
LOCK = ".lock"
State = Literal["free", "finished", "unfinished", "foreign"]


@dataclass(frozen=True)
class Place:
    """Where a run goes.

    Attributes:
        folder: The run folder.
        state: `free` for a new run, `unfinished` or `finished` for one that was started before.
        notes: What the user should be told about the choice.
    """

    folder: Path
    state: State
    notes: tuple[str, ...] = ()


def state_of(folder: Path, finished_by: str) -> State:
    """What is in a folder.

    Args:
        folder: A run folder, or any path.
        finished_by: The file that a complete run has.

    Returns:
        `free` if there is nothing (but a lock or partial files), `finished` or `unfinished` for a run,
        else `foreign`.
    """
    if not os.path.lexists(folder):
        return "free"
    if not folder.is_dir():
        return "foreign"
    if all(entry.name == LOCK or is_partial(entry) for entry in folder.iterdir()):
        return "free"
    if not (folder / "recipe.yaml").is_file():
        return "foreign"
    return "finished" if (folder / finished_by).is_file() else "unfinished"


@contextmanager
def claimed(recipe: Recipe, resume: bool) -> Iterator[Place]:
    """Finds and locks the run folder of a recipe; inside, no other process writes to it.

    A folder that the user named is used as it is. Without one it is `runs/NAME`, or the first of
    `runs/NAME-2`, `runs/NAME-3`, … that is free; to resume, the newest of them. A new folder in which
    nothing was written is removed afterwards.

    Raises:
        ConfigError: If the named folder holds something that would have to be overwritten, or another
            process is using the folder.
    """
    named = recipe.output.dir
    this_one = named is not None or resume  # no other will do
    for folder in [named] if named is not None else _candidates(recipe, resume):
        with owned(folder) as owner:
            # Checked again under the lock: another run may have come and gone before.
            if owner is None and (this_one or state_of(folder, recipe.finished_by) == "free"):
                remove_partials(folder, deep=True, owned=True)
                yield (_unnamed if named is None else _named)(recipe, folder, resume)
                return
            if owner is not None and this_one:
                raise ConfigError(
                    f"Another run is using this folder{owner}.",
                    where=str(folder),
                    fix="Wait until it ends, or choose another folder with --output-dir.",
                )


def _candidates(recipe: Recipe, resume: bool) -> Iterator[Path]:
    """The newest run to resume; else the free names in turn, as another run may take one first."""
    if resume and (runs := _runs(recipe)):
        yield runs[-1]
        return
    for folder in _names(recipe):
        if state_of(folder, recipe.finished_by) == "free":
            yield folder


def _names(recipe: Recipe) -> Iterator[Path]:
    yield RUNS / recipe.run_name
    yield from (RUNS / f"{recipe.run_name}-{n}" for n in itertools.count(2))


def _runs(recipe: Recipe) -> list[Path]:
    """The existing runs of this name, oldest first."""
    taken = itertools.takewhile(lambda f: state_of(f, recipe.finished_by) != "free", _names(recipe))
    return [folder for folder in taken if state_of(folder, recipe.finished_by) != "foreign"]


@contextmanager
def owned(folder: Path) -> Iterator[str | None]:
    """Locks a folder; yields None, or who has the lock, in words that follow "this folder"."""
    if os.path.lexists(folder) and not folder.is_dir():
        yield None  # there is nothing to lock; the caller refuses it
        return
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield _owner(folder / LOCK)
        return
    try:
        (folder / LOCK).write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield None
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # before the release, or it might be the next owner's
        lock.release()
        for parent in made:
            with suppress(OSError):  # it is not empty
                parent.rmdir()


def in_use(folder: Path) -> str | None:
    """Who is using a run folder, in words that may follow "this folder"; None if nobody is.

    Nothing is left behind in the folder, but the lock of a killed process is removed.
    """
    if not (folder / LOCK).exists():
        return None
    try:
        with owned(folder) as owner:
            return owner
    except OSError:  # somebody else's, which cannot be asked
        return ""


def _owner(lock: Path) -> str:
    try:
        text = lock.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):  # it ended just now, or the system lets nobody read a locked file
        return ""
    return f", {text}" if text else ""


def _busy(folder: Path) -> bool:
    with owned(folder) as owner:
        return owner is not None


def _named(recipe: Recipe, folder: Path, resume: bool) -> Place:
    state = state_of(folder, recipe.finished_by)
    if state == "foreign":
        holds = "holds something that is not a run" if folder.is_dir() else "is a file"
        fix = "Choose a new or an empty folder with --output-dir."
    elif resume:
        return _resumed(folder, state)
    elif state == "finished":
        holds = "holds a finished run, which is never overwritten"
        fix = "Choose another folder with --output-dir, or leave it out for the next free one."
    elif state == "unfinished":
        holds = "holds an unfinished run"
        fix = "Resume it with --resume, or choose another folder with --output-dir."
    else:
        return Place(folder, state)
    raise ConfigError(f"The output folder {holds}.", where=f"output.dir = {folder}", fix=fix)


def _unnamed(recipe: Recipe, folder: Path, resume: bool) -> Place:
    state = state_of(folder, recipe.finished_by)
    if resume:
        return _resumed(folder, state)
    others = list(itertools.takewhile(lambda other: other != folder, _names(recipe)))
    runs = [other for other in others if state_of(other, recipe.finished_by) != "foreign"]
    notes: list[str] = []
    if runs and state_of(runs[-1], recipe.finished_by) == "unfinished" and not _busy(runs[-1]):
        notes.append(f"{runs[-1]} is unfinished; --resume continues it.")
    if others:
        notes.append(f"{others[-1]} already exists and stays as it is.")
    return Place(folder, state, tuple(notes))


def _resumed(folder: Path, state: State) -> Place:
    if state == "free":
        return Place(folder, state, ("There is no unfinished run; this one starts at step 0.",))
    return Place(folder, state)


@contextmanager
def claimed_by_all(recipe: Recipe, resume: bool) -> Iterator[Place]:
    """As `claimed`, in each of several processes: the main one claims the folder and tells the others.

    Raises:
        ConfigError: As `claimed`, in all of them.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState()
    if state.num_processes == 1:
        with claimed(recipe, resume) as place:
            yield place
        return
    claim: list[Place | ConfigError | None] = [None]
    with ExitStack() as stack:
        if state.is_main_process:
            try:
                claim = [stack.enter_context(claimed(recipe, resume))]
            except ConfigError as error:
                claim = [error]
        broadcast_object_list(claim)
        if isinstance(claim[0], ConfigError):
            raise claim[0]
        assert claim[0] is not None
        yield claim[0]
        state.wait_for_everyone()  # nobody writes to the folder once it is free again
