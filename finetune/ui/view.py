"""What the page shows of a run and of a folder, as HTML in which pictures are inlined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from finetune.config.base import Fault
from finetune.data.notes import count
from finetune.errors import ConfigError
from finetune.recipes.check import Report
from finetune.recipes.check_page import marks_of, shots
from finetune.recipes.place import in_use
from finetune.training import RunFolder
from finetune.training.curves import Point, read_curves
from finetune.ui.processes import Started, said
from finetune.watching.charts import FRAME, curve_charts, number
from finetune.watching.page import duration
from finetune.watching.pictures import figure, previews
from finetune.watching.seen import RECIPE, Seen, look

MOST_SHOTS = 60
"""Pictures of a folder that are shown."""

_LINES = 40  # of a log


def fingerprint(folder: Path) -> tuple[Any, ...]:
    """What changes when there is something new to see of a run; quick to ask."""
    run, started = RunFolder(folder), Started(folder)
    watched = (run.recipe, run.metrics, run.validation, run.samples, run.failure, run.report, started.log)
    stats = [path.stat() if path.exists() else None for path in watched]
    # A process lives a little longer than it holds its folder.
    alive = (folder.is_dir() and in_use(folder) is not None, started.process() is not None)
    return (str(folder), *alive, *(s and (s.st_mtime_ns, s.st_size) for s in stats))


def run_html(folder: Path) -> str:
    """A run as far as it is: numbers, curves, previews over the steps, what it said."""
    log = "\n".join(said(folder).splitlines()[-_LINES:])
    if not (folder / RECIPE).is_file():
        state = "starting" if Started(folder).process() else "did not start"
        return _render(
            "run.html", name=folder.name, state=state, facts=(), charts=(), strips=(), log=log, share=0
        )
    try:
        run = look(folder)
    except ConfigError as error:
        return faults_html([Fault(error.what, error.where or "", error.fix)])
    curves = {**read_curves(run.folder.metrics), **read_curves(run.folder.validation)}
    if run.state == "failed" and not log:
        log = run.folder.failure.read_text(encoding="utf-8")
    return _render(
        "run.html",
        name=run.name,
        state=run.state,
        facts=facts(run, curves),
        charts=curve_charts([("", curves)]),
        strips=previews(run.folder),
        log=log,
        share=run.step / run.steps if run.steps else 0,
    )


def facts(run: Seen, curves: Mapping[str, Sequence[Point]]) -> list[tuple[str, str]]:
    """The numbers that somebody who waits wants to see.

    Args:
        run: The run.
        curves: What it logged.
    """
    training = run.recipe.get("training", {})
    rows = int(training.get("batch_size") or 1) * int(training.get("accumulation") or 1)
    found = [("Step", f"{run.step:,} of {run.steps:,}")]
    if run.loss is not None:
        found.append(("Loss, smoothed", f"{run.loss:.4f}"))
    if rates := curves.get("lr"):
        found.append(("Learning rate", number(rates[-1][1])))
    if speeds := curves.get("images_per_second"):
        found.append(("Pictures a second", f"{speeds[-1][1]:.3g}"))
        if run.state == "running" and speeds[-1][1] > 0:
            found.append(("Time left", f"about {duration((run.steps - run.step) * rows / speeds[-1][1])}"))
    return [*found, ("Model", str(run.recipe.get("model", {}).get("name")))]


def check_html(report: Report) -> str:
    """What a check found in a folder, and its pictures as the model will see them, with captions."""
    shown: list[dict[str, Any]] = []
    total = 0
    if report.data is not None:
        total = len(report.data.folder.pictures)
        for shot in islice(shots(report, marks_of(report)), MOST_SHOTS):
            shown.append(
                {"figure": figure(shot.image, "\n".join(shot.captions), shot.name, 256), "found": shot.found}
            )
    facts_found = [count(n, kind) for kind in ("error", "warning", "note") if (n := report.number(kind))]
    return _render(
        "check.html",
        report=report,
        total=total,
        shown=shown,
        summary=", ".join(facts_found) or "nothing to mend",
    )


def faults_html(faults: Sequence[Fault]) -> str:
    """What is wrong, a line each; empty if nothing is."""
    return _render("faults.html", faults=faults) if faults else ""


def _render(template: str, /, **values: Any) -> str:
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> Environment:
    made = Environment(
        loader=ChoiceLoader([PackageLoader("finetune.ui"), PackageLoader("finetune.watching")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["drawing"] = FRAME
    return made
