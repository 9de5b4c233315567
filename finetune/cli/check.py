"""`finetune check`: what is wrong with a folder of pictures, before anything long."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.flags import SettingsCommand, flag_settings, set_flag, setting_flag
from finetune.cli.imports import large_imports
from finetune.cli.style import json_flag
from finetune.cli.terminal import progress, tell, tell_answer
from finetune.config import ModelSection
from finetune.errors import ConfigError
from finetune.files import check_writable
from finetune.recipes.base import Recipe
from finetune.recipes.faults import cut, nearest
from finetune.recipes.fields import setting_fields
from finetune.recipes.load import RECIPES, Setting, build, read_recipe_file
from finetune.recipes.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from finetune.recipes.check import Report

_LINES, _WIDTH = 22, 80


def _check(
    folder: Path | None,
    recipe: str,
    model: str | None,
    changes: tuple[str, ...],
    as_json: bool,
    strict: bool,
    output_dir: Path | None,
) -> int:
    chosen = _recipe(folder, recipe, model, changes)
    with large_imports():
        from finetune.recipes.check import check
    if output_dir is not None:
        check_writable(output_dir)
    report = check(chosen, SILENT if as_json else Reporter(tell, progress))
    if as_json:
        print(json.dumps(report.plain()), flush=True)
    else:
        for line in _lines(report):
            tell_answer(line)
    if output_dir is not None and report.data is not None:
        from finetune.recipes.check_page import write_pages

        written = write_pages(report, output_dir)
        if not as_json:
            tell(f"Wrote {', '.join(map(str, written))}.")
    return 2 if report.number("error") or (strict and report.number("warning")) else 0


def _recipe(folder: Path | None, recipe: str, model: str | None, changes: tuple[str, ...]) -> Recipe:
    """The recipe that a kind or a file names, with the folder, if there is one, as its pictures."""
    kind, settings = recipe, list[Setting]()
    if recipe not in RECIPES:
        file = Path(recipe)
        if not file.exists():
            near = nearest(recipe, RECIPES)
            raise ConfigError(
                "There is no recipe of this kind, and no such file.",
                where=f"--recipe {cut(recipe)}",
                fix=f"Did you mean {near}?" if near else f"Use one of {', '.join(RECIPES)}, or a YAML file.",
            )
        kind, settings = read_recipe_file(file / "recipe.yaml" if file.is_dir() else file)
    field = RECIPES[kind].folder_field
    given = [*settings, *flag_settings({"model": model, "changes": changes, field: folder})]
    if not {f"data.{field}", "data.sources", "data.dataset"} & {setting.key for setting in given}:
        raise ConfigError(
            "No pictures are given.",
            where=f"finetune check --recipe {cut(recipe)}",
            fix="Give a folder, or a recipe's file that names some.",
        )
    return build(kind, given)


def _lines(report: Report) -> Iterator[str]:
    """The report for people: about a screen, the worst first."""
    from finetune.data.notes import count, listing

    width = min(_WIDTH, shutil.get_terminal_size().columns)
    places = listing([str(folder) for folder in report.recipe.folders])
    yield from _wrapped(f"{places} for finetune {report.recipe.kind}. {report.model}", width, 2)
    for fact in _facts(report) if report.data is not None else ():
        yield from _wrapped(fact, width, 2)
    numbers = [count(n, kind) for kind in ("error", "warning", "note") if (n := report.number(kind))]
    yield f"Found {', '.join(numbers)}." if numbers else "Found nothing to mend."
    whats = [_wrapped(f"{finding.severity:7}  {finding.line()}", width) for finding in report.findings]
    fixes = [_wrapped(f"{'':9}fix: {one.fix}", width, 14) if one.fix else [] for one in report.findings]
    lines = [line for what, fix in zip(whats, fixes, strict=True) for line in (*what, *fix)]
    if len(lines) <= _LINES:
        yield from lines
        return
    fitting = sum(end <= _LINES for end in accumulate(map(len, whats)))
    yield from chain(*whats[:fitting])
    more = len(whats) - fitting
    rest = f"{more} more, and what" if more else "What"
    yield f"{rest} to do about each: --output-dir FOLDER, or --json."


def _wrapped(text: str, width: int, indent: int = 9) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=" " * indent, max_lines=3, placeholder=" …")


def _facts(report: Report) -> Iterator[str]:
    from finetune.data.notes import count, listing

    facts = report.plain()
    kinds = ", ".join(f"{number} {kind}" for kind, number in facts["formats"].items())
    sizes = dict.fromkeys("x".join(map(str, facts[key])) for key in ("smallest", "largest"))
    yield (
        f"{count(facts['pictures'], 'picture')} ({kinds}), {' to '.join(sizes)} pixels; "
        f"{facts['captioned']} with captions of their own."
    )
    shapes = ", ".join(f"{size} ({number})" for size, number in facts["shapes"].items())
    yield f"Trained at {shapes}. {_amount(facts)}"
    shares = facts.get("samples_by_folder", {})
    if len(shares) > 1:
        yield f"Of these samples {listing([f'{n} are of {place}' for place, n in shares.items()])}."


def _amount(facts: Mapping[str, Any]) -> str:
    from finetune.data.notes import count

    if "shards" in facts:
        shards = count(facts["shards"], "shard")
        return f"These are the first pictures of a stream of {shards}; the others were not looked at."
    samples, steps = count(facts["samples_per_epoch"], "sample"), count(facts["steps_per_epoch"], "step")
    return f"An epoch is {samples}, {steps} of {facts['batch_size']}."


check_command = SettingsCommand(
    "check",
    callback=_check,
    help="Look at a folder of pictures before training: what is wrong with them and their captions. "
    "Without DIR, the recipe says where they are. Exit code 2 if nothing can be trained on.",
    params=[
        click.Argument(["folder"], type=click.Path(path_type=Path), metavar="[DIR]", required=False),
        click.Option(
            ["--recipe"],
            default="lora",
            show_default=True,
            metavar="KIND|FILE",
            help=f"What the pictures are for: {', '.join(RECIPES)}, or a recipe's YAML file.",
        ),
        setting_flag("--model", ModelSection.model_fields["name"]),
        set_flag("Change another setting of the recipe"),
        json_flag("Write the report as JSON."),
        click.Option(["--strict"], is_flag=True, help="Exit with code 2 also if there is a warning."),
        click.Option(
            ["--output-dir"],
            type=click.Path(path_type=Path),
            metavar="FOLDER",
            help="Also write contact sheets of what the model will see, and a page with all findings.",
        ),
    ],
    keys=[key for kind in RECIPES.values() for key in setting_fields(kind)],
)
