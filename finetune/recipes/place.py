"""Where a run goes: a new folder, or the one to resume; an old result is never overwritten (P2)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.errors import ConfigError
from finetune.recipes.base import Recipe

RUNS = Path("runs")
State = Literal["free", "finished", "unfinished", "foreign"]


@dataclass(frozen=True)
class Place:
    """Where a run goes.

    Attributes:
        folder: The run folder.
        state: `free` for a new run, `unfinished` for one to resume, `finished` if nothing is left to do.
        notes: What the user should be told about the choice.
    """

    folder: Path
    state: State
    notes: tuple[str, ...] = ()


def state_of(folder: Path, finished_by: str) -> State:
    """What lies in a folder.

    Args:
        folder: A run folder, or anything.
        finished_by: The file that a complete run has.

    Returns:
        `free` if there is nothing, `finished` or `unfinished` for a run, else `foreign`.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return "free"
    if not folder.is_dir() or not (folder / "recipe.yaml").is_file():
        return "foreign"
    return "finished" if (folder / finished_by).is_file() else "unfinished"


def choose_place(recipe: Recipe, resume: bool) -> Place:
    """Finds the run folder of a recipe.

    A folder that the user named is taken as it is. Without one it is `runs/NAME`, or the first of
    `runs/NAME-2`, `runs/NAME-3`, … that is free; to resume, the newest of them.

    Raises:
        ConfigError: If the named folder holds something that would have to be overwritten.
    """
    if recipe.output.dir is None:
        return _unnamed(recipe, resume)
    folder, state = recipe.output.dir, state_of(recipe.output.dir, recipe.finished_by)
    if state == "foreign":
        raise ConfigError(
            "The output folder holds something that is not a run."
            if folder.is_dir()
            else "The output folder is a file.",
            where=f"output.dir = {folder}",
            mend="Name a new or an empty folder with --output-dir.",
        )
    if resume:
        return _resumed(folder, state)
    if state == "finished":
        raise ConfigError(
            "The output folder holds a finished run, which is never overwritten.",
            where=f"output.dir = {folder}",
            mend="Name another folder with --output-dir, or leave it out for the next free one.",
        )
    if state == "unfinished":
        raise ConfigError(
            "The output folder holds an unfinished run.",
            where=f"output.dir = {folder}",
            mend="Go on with it with --resume, or name another folder with --output-dir.",
        )
    return Place(folder, state)


def _unnamed(recipe: Recipe, resume: bool) -> Place:
    first = RUNS / recipe.run_name
    folders = itertools.chain([first], (RUNS / f"{recipe.run_name}-{n}" for n in itertools.count(2)))
    taken: list[Path] = []
    for folder in folders:
        if state_of(folder, recipe.finished_by) == "free":
            break
        taken.append(folder)
    states = {old: state_of(old, recipe.finished_by) for old in taken}
    runs = [old for old, state in states.items() if state != "foreign"]
    if resume and runs:
        return _resumed(runs[-1], states[runs[-1]])
    notes = [
        f"{old} is unfinished; --resume goes on with it." for old in runs[-1:] if states[old] == "unfinished"
    ]
    if taken:
        notes.append(f"{taken[-1]} exists already and stays as it is.")
    if resume:
        notes.append("There is no unfinished run; this one begins at step 0.")
    return Place(folder, "free", tuple(notes))


def _resumed(folder: Path, state: State) -> Place:
    if state == "free":
        return Place(folder, state, ("There is no unfinished run; this one begins at step 0.",))
    return Place(folder, state)
