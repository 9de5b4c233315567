"""Carries out a sweep: one run after the other, each in a folder of its own, and a list of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from finetune.errors import ConfigError, Interrupted, of_the_system
from finetune.files import is_partial
from finetune.recipes.base import Recipe
from finetune.recipes.load import Setting, build
from finetune.recipes.place import LOCK, owned, state_of
from finetune.recipes.plain_yaml import parse_yaml, write_yaml
from finetune.recipes.reporter import Reporter
from finetune.recipes.sweep import Trial
from finetune.signals import heard_by

if TYPE_CHECKING:
    from finetune.recipes.run import Result

LIST = "sweep.yaml"


@dataclass(frozen=True)
class Swept:
    """What came of one run.

    Attributes:
        folder: Its name in the folder of the sweep.
        settings: The values that differ from other runs', as they were written.
        state: "waiting", "running", "unfinished" (stopped), "finished" or "failed".
        loss: The last of the logged losses, smoothed; None if there is none.
        validation_loss: The last loss on held-out pictures; None if none are held out.
        error: Why it failed.
    """

    folder: str
    settings: Mapping[str, str]
    state: str = "waiting"
    loss: float | None = None
    validation_loss: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep, checked; nothing has been run.

    Attributes:
        folder: Where everything goes.
        identity: What it is; see `finetune.recipes.sweep.identity`.
        trials: Its runs.
        recipes: The recipe of each.
    """

    folder: Path
    identity: Mapping[str, Any]
    trials: Sequence[Trial]
    recipes: Sequence[Recipe]


def recipes_of(kind: str, fixed: Sequence[Setting], trials: Sequence[Trial], folder: Path) -> list[Recipe]:
    """The recipe of each run.

    Raises:
        ConfigError: All faults of the first that has any.
    """
    shared = [setting for setting in fixed if setting.key != "output.dir"]
    places = [Setting("output.dir", folder / trial.name, "finetune sweep") for trial in trials]
    return [
        build(kind, [*shared, *(choice.setting for choice in trial.choices), place])
        for trial, place in zip(trials, places, strict=True)
    ]


@contextmanager
def claimed_folder(folder: Path, resume: bool, identity: Mapping[str, Any]) -> Iterator[None]:
    """Locks the folder of a sweep; inside, no other process runs it.

    Raises:
        ConfigError: If it is in use, holds something else, or another sweep than the one to resume.
    """
    with owned(folder) as owner:
        if owner is not None:
            raise ConfigError(
                f"Another sweep is using this folder{owner}.",
                where=str(folder),
                fix="Wait until it ends, or choose another folder with --output-dir.",
            )
        _check_folder(folder, resume, identity)
        yield


def _check_folder(folder: Path, resume: bool, identity: Mapping[str, Any]) -> None:
    file = folder / LIST
    if not folder.is_dir() or not file.is_file():
        if not folder.is_dir() or any(
            entry.name != LOCK and not is_partial(entry) for entry in folder.iterdir()
        ):
            raise ConfigError(
                "There is something here that is not a sweep.",
                where=str(folder),
                fix="Choose a new or an empty folder with --output-dir.",
            )
        return
    if not resume:
        raise ConfigError(
            "There is a sweep in this folder already.",
            where=str(folder),
            fix="Continue it with --resume, or choose another folder with --output-dir.",
        )
    before = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    before = before if isinstance(before, dict) else {}
    changed = [key for key, value in identity.items() if before.get(key) != value]
    if changed:
        raise ConfigError(
            f"The sweep in this folder has other {' and '.join(changed)}.",
            where=str(file),
            fix="Give the recipe and the flags that it was started with, or start another without --resume.",
        )


def run_sweep(sweep: Sweep, report: Reporter, after: Callable[[Recipe, Result], None]) -> list[Swept]:
    """Runs what is not finished yet, one after the other; a run that fails is told, and the next one begins.

    Args:
        sweep: What to run; its folder is claimed.
        report: Tells the user what happens.
        after: Called with each run that has ended well.

    Returns:
        What came of every run.

    Raises:
        Interrupted: The user stopped it; finished runs are kept, and the current one has a checkpoint.
    """
    rows = [_seen(sweep, index) for index in range(len(sweep.trials))]
    _write(sweep, rows)
    for index, (trial, recipe) in enumerate(zip(sweep.trials, sweep.recipes, strict=True)):
        title = f"Run {trial.number} of {len(sweep.trials)}: {trial.words}"
        if rows[index].state == "finished":
            report.tell(f"{title} is finished.")
            continue
        report.tell(f"{title}.")
        rows[index] = replace(rows[index], state="running")
        _write(sweep, rows)
        try:
            error = _run(recipe, report, after)
            rows[index] = replace(_seen(sweep, index), error=error)
            if error is not None:
                rows[index] = replace(rows[index], state="failed")
                report.warn(f"Run {trial.number} failed: {error}")
        except BaseException:
            rows[index] = _seen(sweep, index)
            raise
        finally:
            _write(sweep, rows)
    return rows


class _Stop:
    """Whether a signal asked the sweep to end: a library may make an error of its own of it."""

    asked = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Interrupts what is running; while a run trains, it handles signals itself."""
        self.asked = True
        raise KeyboardInterrupt


def _run(recipe: Recipe, report: Reporter, after: Callable[[Recipe, Result], None]) -> str | None:
    """Runs or resumes one recipe; why it failed, in one line, or None."""
    import torch

    from finetune.recipes.run import run

    assert recipe.output.dir is not None
    resume, stop = state_of(recipe.output.dir, recipe.finished_by) == "unfinished", _Stop()
    try:
        with heard_by(stop.handle):
            result = run(
                recipe,
                resume=resume,
                tell=report.tell,
                progress=report.progress,
                warning=report.warning,
                watcher=report.watcher,
            )
            after(recipe, result)
    except Interrupted:
        raise
    except Exception as error:  # one of many: the others may well succeed
        if stop.asked:
            raise KeyboardInterrupt from error
        known = of_the_system(error) or error
        return " ".join(str(known).split()) or type(known).__name__
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return None


def _seen(sweep: Sweep, index: int) -> Swept:
    """What is there of a run."""
    from finetune.training import RunFolder
    from finetune.training.curves import read_curves, smoothed

    trial, recipe = sweep.trials[index], sweep.recipes[index]
    files = RunFolder(sweep.folder / trial.name)
    losses = read_curves(files.metrics).get("loss", [])
    validation = read_curves(files.validation).get("validation_loss", [])
    return Swept(
        trial.name,
        {choice.key: choice.text for choice in trial.choices},
        {"finished": "finished", "unfinished": "unfinished"}.get(
            state_of(files.path, recipe.finished_by), "waiting"
        ),
        smoothed(losses)[-1][1] if losses else None,
        validation[-1][1] if validation else None,
    )


def _write(sweep: Sweep, rows: Sequence[Swept]) -> None:
    plain = [{key: value for key, value in asdict(row).items() if value is not None} for row in rows]
    comment = "A sweep of finetune: what it tries, and what came of each run."
    write_yaml(sweep.folder / LIST, {**sweep.identity, "runs": plain}, comment)
