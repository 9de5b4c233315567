"""`finetune runs`: which runs there are, how far they are, and what they take on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import click

from finetune.cli.terminal import size, table, tell
from finetune.errors import ConfigError
from finetune.recipes.place import RUNS


def _runs(folder: Path, as_json: bool) -> None:
    from finetune.watching.seen import look, runs_in

    seen, unreadable = [], []
    for path in runs_in(folder) if folder.exists() or folder != RUNS else ():
        try:
            seen.append(look(path))
        except ConfigError as error:
            unreadable.append(f"{path} is left out: {error.what[:1].lower()}{error.what[1:]}")
    seen.sort(key=lambda run: run.written)
    if as_json:
        print(json.dumps({"runs": [run.plain() for run in seen], "notes": unreadable}), flush=True)
        return
    if not seen:
        tell(f"There are no runs in {folder}.")
    rows = [("run", "recipe", "state", "step", "loss", "written", "size", "checkpoints")]
    for run in seen:
        loss = "–" if run.loss is None else f"{run.loss:.4f}"
        kept = size(run.checkpoints) if run.checkpoints else "–"
        rows.append(
            (str(run.folder.path), run.kind, run.state, f"{run.step}/{run.steps}", loss,
             f"{run.written:%Y-%m-%d %H:%M}", size(run.size), kept)
        )  # fmt: skip
    for line in table(rows, right={3, 4, 6, 7}) if seen else ():
        tell(line)
    for run in seen:
        if run.state == "failed":
            reason = run.folder.failure.read_text(encoding="utf-8").splitlines()
            tell(f"{run.folder.path} failed: {reason[0] if reason else 'it does not say why'}")
    for line in unreadable:
        tell(line)


runs_command = click.Command(
    "runs",
    callback=_runs,
    help="List the runs in FOLDER (default: runs), the latest last: recipe, state, steps, the smoothed loss, "
    "when something was last written, the size on disk, and that of the checkpoints in it. FOLDER may be one "
    "run.",
    short_help="List runs: state, steps, loss, size.",
    params=[
        click.Argument(["folder"], type=click.Path(path_type=Path), default=RUNS, metavar="[FOLDER]"),
        click.Option(["--json", "as_json"], is_flag=True, help="Write the list as JSON."),
    ],
)
