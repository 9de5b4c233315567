"""Resuming a run: an interrupted one, or a finished one that is to be trained for longer."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.data.notes import listing
from finetune.data.record import differences, read_record
from finetune.errors import ConfigError
from finetune.recipes.base import Recipe
from finetune.recipes.length import in_steps
from finetune.recipes.load import load_recipe
from finetune.recipes.place import LOCK, State
from finetune.recipes.reporter import Reporter
from finetune.recipes.streams import fit_for
from finetune.training import RunFolder

if TYPE_CHECKING:
    from finetune.recipes.run import Run

DATA, WEIGHTS = "pictures and captions", "weights of the model"
"""Parts of a run's identity besides its settings."""


def asks_for_more_steps(recipe: Recipe, folder: Path) -> bool:
    """Whether more steps are asked for than a finished run has taken.

    Args:
        recipe: The settings, before a preset fills them in.
        folder: The finished run.

    Raises:
        ConfigError: If fewer are asked for.
    """
    finished = load_recipe(folder / "recipe.yaml")
    if recipe.training.epochs is not None:
        pictures = recipe.scan()
        recipe = in_steps(fit_for(pictures, recipe), pictures, finished)
    if "steps" not in recipe.training.model_fields_set:
        return False
    asked, taken = recipe.training.steps, finished.training.steps
    if asked < taken:
        raise ConfigError(
            f"The run is already finished at {taken} steps, more than the {asked} asked for.",
            where=f"training.steps = {asked}, {folder}",
            fix=f"Ask for more than {taken} steps, or start a new run without --resume.",
        )
    return asked > taken


def resume_run(this: Run, state: State, report: Reporter) -> None:
    """Loads the newest checkpoint of a run; results of a finished run are moved aside.

    Args:
        this: The run, assembled again.
        state: `unfinished` or `finished`.
        report: Tells the user at which step it resumes.

    Raises:
        ConfigError: If settings, model or data have changed.
        WeightsError: If every checkpoint is damaged.
    """
    trainer, steps = this.trainer, this.recipe.training.steps
    words = {
        DATA: _changed(this),
        "training.steps": "training.steps (the learning rate schedule depends on it; a run with a constant "
        "schedule can be extended)",
    }
    found = trainer.resume(words, _with_its_own_settings(this, state))
    for note in trainer.notes:
        report.warn(note)
    if not found:
        report.tell(f"{this.folder.path} has no checkpoint yet; it starts at step 0.")
        return
    if state == "finished" and trainer.accelerator.is_main_process:
        aside = _move_results_aside(this.folder, trainer.step, this.recipe)
        report.tell(f"The results of step {trainer.step} are kept in {aside}.")
    trainer.accelerator.wait_for_everyone()
    report.tell(f"Resuming from step {trainer.step} of {steps}.")


def _with_its_own_settings(this: Run, state: State) -> str:
    """How the user resumes with the run's original settings; empty if that is impossible."""
    command = f"finetune run {shlex.quote(str(this.folder.path))} --resume"
    if state == "finished":  # its own number of steps is done
        if load_recipe(this.folder.recipe).optimizer.knows_length:
            return ""
        command += f" --set training.steps={this.recipe.training.steps}"
    return f"`{command}` resumes with its original settings."


def _changed(this: Run) -> str:
    before = read_record(this.folder.pictures)
    changes = differences(before, this.source.record()) if before is not None else []
    return listing(changes) if changes else DATA


def _move_results_aside(folder: RunFolder, step: int, recipe: Recipe) -> Path:
    """Moves all files but training's own; the one that marks the run as finished goes last."""
    aside = folder.path / f"results-step-{step:06d}"
    aside.mkdir(exist_ok=True)
    marker = folder.path / Path(recipe.finished_by).parts[0]
    own = {folder.recipe, folder.pictures, folder.summary, folder.stream, folder.metrics, folder.logs,
           folder.validation, folder.evaluation, folder.best, folder.samples, folder.path / "checkpoints",
           folder.path / LOCK, marker,
           *(folder.path / stage for stage in recipe.stages)}  # fmt: skip
    results = [e for e in sorted(folder.path.iterdir()) if e not in own and not e.name.startswith("results-")]
    for entry in (*results, marker):
        entry.rename(aside / entry.name)
    return aside
