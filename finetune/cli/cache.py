"""`finetune cache`: what a cache folder holds, whether it is intact, and making it smaller."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from pydantic import ByteSize, TypeAdapter, ValidationError

from finetune.cli.imports import large_imports
from finetune.cli.terminal import progress, size, table, tell_answer
from finetune.errors import ConfigError
from finetune.recipes.load import build, read_recipe_file

if TYPE_CHECKING:
    from finetune.data.upkeep import Holding


def _cache(action: Literal["show", "verify", "prune"], path: Path, max_size: str | None) -> None:
    if (action == "prune") != (max_size is not None):
        raise click.UsageError("--max-size SIZE is required by prune, and by nothing else.")
    most = _bytes(max_size or "0")
    folder = _folder(path)
    with large_imports():
        from finetune.data.notes import count
        from finetune.data.upkeep import holdings, prune, verify
    if action == "show":
        for line in _table(holdings(folder)):
            tell_answer(line)
    elif action == "verify":
        with progress("Verifying") as report:
            damaged = verify(folder, report)
        for line in damaged:
            tell_answer(line)
        entries = sum(holding.entries or 0 for holding in holdings(folder))
        tell_answer(f"Intact entries in {folder}: {entries:,}.")
    else:
        done = prune(folder, most)
        tell_answer(
            f"Removed {count(done.files, 'file')} ({size(done.size)}), the least recently used; "
            f"{size(done.left)} are left in {folder}."
        )


def _folder(path: Path) -> Path:
    """The cache folder that is meant: itself, or that of a recipe or a run."""
    recipe = path / "recipe.yaml" if path.is_dir() else path
    if not recipe.is_file():
        return path
    kind, settings = read_recipe_file(recipe)
    if (folder := build(kind, settings).data.cache_dir) is None:
        raise ConfigError(
            "This recipe keeps its cache in memory only.",
            where=str(recipe),
            fix="Give one with data.cache_dir, or the cache folder itself.",
        )
    return folder


def _bytes(text: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise ConfigError(
            f"{text!r} is not a size.", where="--max-size", fix="Write 20GB, 500MB or 1.5TB."
        ) from None


def _table(held: list[Holding]) -> list[str]:
    """Lines of a table, a row for each kind and one for all of them."""
    rows = [("kind", "entries", "size", "last used", "made by")]
    for holding in held:
        used = f"{datetime.fromtimestamp(holding.used):%Y-%m-%d %H:%M}" if holding.used else "–"
        count = "–" if holding.entries is None else f"{holding.entries:,}"
        rows.append((holding.kind, count, size(holding.size), used, ", ".join(holding.encoders)))
    rows.append(("all", "", size(sum(holding.size for holding in held)), "", ""))
    return table(rows, right={1, 2})


cache_command = click.Command(
    "cache",
    callback=_cache,
    help="Look after a cache folder (data.cache_dir). PATH is it, or a recipe or run that has one.\n\n"
    "show lists what it holds; verify reads all of it, and names and removes what is damaged; prune removes "
    "what was not used for longest.",
    params=[
        click.Argument(["action"], type=click.Choice(["show", "verify", "prune"])),
        click.Argument(["path"], type=click.Path(path_type=Path), metavar="PATH"),
        click.Option(["--max-size"], metavar="SIZE", help="What prune leaves at most, such as 20GB."),
    ],
)
