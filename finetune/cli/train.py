"""`finetune lora` and `finetune run`: from flags or a YAML file to a trained run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.flags import SettingsCommand, flag_settings, recipe_flags, set_flag, setting_flag
from finetune.cli.imports import large_imports
from finetune.cli.terminal import progress, quiet_loading, tell
from finetune.config import OutputSection
from finetune.recipes.base import Recipe
from finetune.recipes.fields import setting_fields
from finetune.recipes.load import RECIPES, Setting, build, read_recipe_file
from finetune.training import RunFolder

if TYPE_CHECKING:
    from finetune.recipes.run import Result

_RESUME = click.Option(
    ["--resume"], is_flag=True, help="Continue an unfinished run from its last checkpoint."
)


def training_command(kind: str, summary: str) -> click.Command:
    """The command that trains one kind of recipe, e.g. `finetune lora`.

    Args:
        kind: A name in `RECIPES`.
        summary: What it does, in one sentence.
    """

    def command(resume: bool, **values: Any) -> None:
        train(build(kind, flag_settings(values)), resume)

    return SettingsCommand(
        kind,
        callback=command,
        help=summary,
        params=[*recipe_flags(kind), _RESUME],
        keys=list(setting_fields(RECIPES[kind])),
    )


def _run(recipe: Path, resume: bool, **values: Any) -> None:
    file = recipe / "recipe.yaml" if recipe.is_dir() else recipe
    kind, settings = read_recipe_file(file)
    given = flag_settings(values)
    if resume and file.name == "recipe.yaml" and all(s.key != "output.dir" for s in given):
        # The recipe in a run folder stands for that run.
        given.append(Setting("output.dir", file.resolve().parent, str(file)))
    train(build(kind, [*settings, *given]), resume)


run_command = SettingsCommand(
    "run",
    callback=_run,
    help="Run a recipe file. RECIPE is a YAML file, or the folder of an earlier run.",
    params=[
        click.Argument(["recipe"], type=click.Path(path_type=Path)),
        set_flag(),
        setting_flag("--output-dir", OutputSection.model_fields["dir"]),
        _RESUME,
    ],
    keys=[key for kind in RECIPES.values() for key in setting_fields(kind)],
)


def train(recipe: Recipe, resume: bool) -> None:
    """Runs a recipe and shows the user its progress."""
    with large_imports():
        from finetune.recipes.run import run

        quiet_loading()
    result = run(recipe, resume=resume, tell=tell, progress=progress)
    if recipe.training.report:
        _report(result)


def _report(result: Result) -> None:
    """Writes the run's page, if it is new or missing; what goes wrong is told, and no reason to fail."""
    from accelerate import PartialState

    from finetune.watching.page import write_report

    place = RunFolder(result.folder).report
    if not PartialState().is_main_process or (place.exists() and not result.files):
        return
    try:
        tell(f"The run on one page: {write_report([result.folder])}")
    except Exception as error:  # the results are there, whatever a page makes of them
        why = (str(error).splitlines() or [type(error).__name__])[0]
        tell(f"There is no report.html: {why} `finetune report {result.folder}` tries again.")
