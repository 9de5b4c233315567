"""`finetune sweep`: runs that differ in some settings, one after the other, and a table of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetune.cli.flags import SettingsCommand
from finetune.cli.imports import large_imports
from finetune.cli.terminal import progress, quiet_loading, table, tell, tell_end, tell_warning
from finetune.cli.train import write_page
from finetune.errors import ConfigError
from finetune.recipes.fields import setting_fields
from finetune.recipes.load import RECIPES, read_recipe_file
from finetune.recipes.reporter import Reporter
from finetune.recipes.sweep import identity, parted, trials

if TYPE_CHECKING:
    from finetune.recipes.swept import Swept


def _sweep(
    recipe: Path,
    changes: tuple[str, ...],
    number: int | None,
    seed: int,
    output_dir: Path | None,
    resume: bool,
) -> int:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(
            "A sweep is one process; its runs follow each other.",
            where="finetune sweep",
            fix="Start it without torchrun or accelerate launch.",
        )
    kind, settings = read_recipe_file(recipe / "recipe.yaml" if recipe.is_dir() else recipe)
    same, varied = parted(changes)
    keys = {setting.key for setting in same} | {choices[0].key for choices in varied}
    fixed = [*(s for s in settings if s.key not in keys and s.key != "output.dir"), *same]
    chosen = trials(varied, number, seed)
    with large_imports():
        from finetune.cli.watching import watcher
        from finetune.recipes.swept import LIST, Sweep, claimed_folder, recipes_of, run_sweep

        quiet_loading()
    name = recipes_of(kind, fixed, chosen[:1], Path())[0].run_name
    folder = output_dir or _default_folder(name, resume)
    sweep = Sweep(
        folder, identity(kind, fixed, varied, number, seed), chosen, recipes_of(kind, fixed, chosen, folder)
    )
    with claimed_folder(folder, resume, sweep.identity):
        rows = run_sweep(sweep, Reporter(tell, progress, tell_warning, watcher()), write_page)
    for line in _table(rows):
        tell(line)
    files = [folder / LIST, *(_page(folder, rows) if sweep.recipes[0].training.report else ())]
    tell_end(
        f"Wrote {' and '.join(map(str, files))}.", files, folder=folder, runs=[asdict(row) for row in rows]
    )
    return 1 if any(row.state == "failed" for row in rows) else 0


def _default_folder(name: str, resume: bool) -> Path:
    """The next free one; to resume, the newest that is there."""
    from finetune.recipes.place import RUNS

    last = RUNS / f"{name}-sweep"
    for number in count(2):
        following = RUNS / f"{name}-sweep-{number}"
        if not last.exists() or (resume and not following.exists()):
            return last
        last = following
    raise AssertionError


def _page(folder: Path, rows: Sequence[Swept]) -> Iterator[Path]:
    """Writes a page that compares the finished runs, if there are several, and not too many for one."""
    from finetune.watching.page import MOST_RUNS, write_report

    finished = [folder / row.folder for row in rows if row.state == "finished"]
    if len(finished) > MOST_RUNS:
        tell(f"For a page that compares up to {MOST_RUNS} of them: finetune report RUN RUN … -o FILE.html")
    elif len(finished) > 1:
        try:
            yield write_report(finished, folder / "sweep.html")
        except Exception as error:  # the runs are there, whatever a page makes of them
            tell_warning(f"There is no sweep.html: {str(error) or type(error).__name__}")


def _table(rows: Sequence[Swept]) -> Iterator[str]:
    """The runs, with the settings that differ; and the best of them, if pictures were held out."""
    keys = list(rows[0].settings)
    validated = [row for row in rows if row.validation_loss is not None]
    failed = [row for row in rows if row.state != "finished"]
    heads = [
        "run",
        *keys,
        "loss",
        *(["validation loss"] if validated else []),
        *(["state"] if failed else []),
    ]
    lines = [heads]
    for row in rows:
        losses = [row.loss, row.validation_loss] if validated else [row.loss]
        numbers = ["–" if loss is None else f"{loss:.4f}" for loss in losses]
        lines.append([row.folder, *row.settings.values(), *numbers, *([row.state] if failed else [])])
    yield from table(lines, right=range(1, 2 + len(keys) + bool(validated)))
    finished = [row for row in validated if row.state == "finished"]
    if len(finished) > 1:
        best = min(finished, key=lambda row: row.validation_loss or 0.0)
        yield f"The lowest validation loss is that of {best.folder}."


sweep_command = SettingsCommand(
    "sweep",
    callback=_sweep,
    help="Try several values of some settings: a run for each combination, one after the other. RECIPE is a "
    "YAML file, or the folder of an earlier run.\n\n"
    "A run that fails is told, and the others go on; then the exit code is 1.",
    params=[
        click.Argument(["recipe"], type=click.Path(path_type=Path)),
        click.Option(
            ["--set", "changes"],
            multiple=True,
            metavar="SECTION.KEY=VALUE[,VALUE…]",
            help="Values to try, or one for all runs; may be repeated. A comma within brackets or quotes "
            "belongs to the value.",
        ),
        click.Option(
            ["--random", "number"],
            type=click.IntRange(1),
            metavar="INTEGER",
            help="Try only so many of the combinations, drawn at random.",
        ),
        click.Option(
            ["--seed"],
            type=click.IntRange(0),
            default=0,
            metavar="INTEGER",
            help="Of this draw.  [default: 0]",
        ),
        click.Option(
            ["--output-dir"],
            type=click.Path(path_type=Path),
            metavar="FOLDER",
            help="Where the runs go.  [default: runs/NAME-sweep, or the next free one]",
        ),
        click.Option(
            ["--resume"], is_flag=True, help="Continue an unfinished sweep; finished runs are kept."
        ),
    ],
    keys=[key for kind in RECIPES.values() for key in setting_fields(kind)],
)
