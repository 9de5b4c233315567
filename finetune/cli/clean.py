"""`finetune clean`: removing the checkpoints of runs that need them no more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetune.cli.terminal import size, tell
from finetune.errors import ConfigError

if TYPE_CHECKING:
    from finetune.watching.cleaning import Cleanup


def _clean(paths: tuple[Path, ...], yes: bool) -> None:
    from finetune.watching.cleaning import remove

    found = [one for one in _found(paths) if one.places]
    if not found:
        tell("There is nothing to remove.")
        return
    for one in found:
        tell(f"{one.run.folder.path}: {size(one.size)} of checkpoints; afterwards it {one.loses}.")
    total = size(sum(one.size for one in found))
    if not yes and not _agreed(f"Remove {total}? Results, metrics and samples stay."):
        tell("Nothing was removed.")
        return
    for one in found:
        remove(one)
    tell(f"Removed {total}.")


def _found(paths: tuple[Path, ...]) -> list[Cleanup]:
    """What can be removed; of a folder of runs, those in use are left out and named.

    Raises:
        ConfigError: If a run that was named is in use, or a path is no run and holds none.
    """
    from finetune.watching.cleaning import busy, cleanup
    from finetune.watching.seen import runs_in

    found = {}
    for path in paths:
        if not (runs := runs_in(path)):
            raise ConfigError(
                "There is no run here.", where=str(path), fix="Give run folders, or a folder of runs."
            )
        for run in runs:
            one = cleanup(run)
            if one.run.state != "running":
                found[run.resolve()] = one
            elif run == path:
                raise busy(path)
            else:
                tell(f"{run} is training now, and is left as it is.")
    return list(found.values())


def _agreed(question: str) -> bool:
    """Asks the user.

    Raises:
        ConfigError: If there is no terminal to ask in.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(
            "Nothing is removed without asking, and there is no terminal to ask in.",
            where="finetune clean",
            fix="Add --yes.",
        )
    return click.confirm(question, default=False)


clean_command = click.Command(
    "clean",
    callback=_clean,
    help="Remove the checkpoints of runs, which only --resume and exports of earlier steps need; results, "
    "recipe.yaml, metrics and samples stay. RUN is a run folder or a folder of runs. It says what would go, "
    "and asks first.",
    short_help="Remove checkpoints that are no longer needed.",
    params=[
        click.Argument(["paths"], type=click.Path(path_type=Path), metavar="RUN...", nargs=-1, required=True),
        click.Option(["--yes"], is_flag=True, help="Do not ask."),
    ],
)
