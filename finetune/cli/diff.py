"""`finetune diff`: how two LoRAs, or two models, differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.files import structure, structure_flags
from finetune.cli.flags import SettingsCommand, given_model
from finetune.cli.imports import large_imports
from finetune.cli.style import json_flag
from finetune.cli.terminal import progress, quiet_loading, table, tell_answer
from finetune.config import ModelSection
from finetune.errors import ConfigError
from finetune.recipes.faults import cut
from finetune.recipes.load import MODEL_KEYS

if TYPE_CHECKING:
    from finetune.tools.compare import Comparison

_SHOWN = 5  # names of layers or metadata


def _diff(first: str, second: str, as_json: bool, model: str | None, changes: tuple[str, ...]) -> None:
    with large_imports():
        from finetune.backbones.load import is_model

        quiet_loading()
    kinds = [is_model(name) for name in (first, second)]
    if kinds[0] != kinds[1]:
        which = first if kinds[0] else second
        raise ConfigError(
            "One of these is a model and the other is not.",
            where=which,
            fix="Give two LoRAs or two models; finetune extract takes a LoRA out of a model.",
        )
    found = (_models if kinds[0] else _loras)(first, second, model, changes).plain()
    if as_json:
        print(json.dumps({"first": first, "second": second, **found}), flush=True)
        return
    for line in _lines(found):
        tell_answer(line)


def _loras(first: str, second: str, model: str | None, changes: tuple[str, ...]) -> Comparison:
    from finetune.tools import compare_loras

    paths = Path(first), Path(second)
    backbone = structure(paths, model, changes)
    with progress("Comparing") as report:
        return compare_loras(*paths, backbone, report)


def _models(first: str, second: str, model: str | None, changes: tuple[str, ...]) -> Comparison:
    from finetune.backbones import load_stored
    from finetune.recipes.model import resolved
    from finetune.tools import compare_models

    if model is not None:
        raise click.UsageError("--model has no effect on two models.")
    given = given_model(None, changes)
    sections = [given.model_copy(update={"name": ModelSection.named(name).name}) for name in (first, second)]
    one, other = (load_stored(resolved(section)[0]) for section in sections)
    with progress("Comparing") as report:
        return compare_models(one, other, report)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """The report for people."""
    rows: list[tuple[str, ...]] = [
        ("block", "weights", "differ", "norm of A", "norm of B", "difference", "cosine")
    ]
    for block in found["blocks"]:
        rows.append((block["block"], str(block["weights"]), str(block["differ"]), *_numbers(block)))
    counts = (str(sum(block[key] for block in found["blocks"])) for key in ("weights", "differ"))
    rows.append(("all", *counts, *_numbers(found["all"])))
    yield from table(rows, right=range(1, 7))
    if found["equal"]:
        yield "They are the same in every weight."
    for key, name in (("only_first", "A"), ("only_second", "B")):
        if layers := found[key]:
            yield f"Only in {name}: {_some(layers)}."
    for key, values in list(found["metadata"].items())[:_SHOWN]:
        shown = (cut(value) if value is not None else "–" for value in values)
        yield f"Metadata {key}: {' | '.join(shown)}"
    if (more := len(found["metadata"]) - _SHOWN) > 0:
        yield f"{more} more metadata differ: --json shows all."


def _numbers(row: dict[str, Any]) -> tuple[str, ...]:
    difference = "–" if row["difference"] is None else f"{row['difference']:.2%}"
    cosine = "–" if row["cosine"] is None else f"{row['cosine']:.4f}"
    return f"{row['first']:.4g}", f"{row['second']:.4g}", difference, cosine


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


diff_command = SettingsCommand(
    "diff",
    callback=_diff,
    help="Compare two LoRAs, by how they change each layer, or two models, weight by weight. A and B are run "
    "folders, files or folders.\n\nThe difference is the norm of B - A divided by the norm of A; the cosine "
    "is 1 where they point the same way, 0 where they have nothing in common.",
    params=[
        click.Argument(["first"], metavar="A"),
        click.Argument(["second"], metavar="B"),
        json_flag("Write it as JSON, with all metadata."),
        *structure_flags(),
    ],
    keys=MODEL_KEYS,
)
