"""The report of one run, or of several side by side: one HTML file that needs no other."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pydantic import ByteSize

from finetune.errors import UserError
from finetune.files import whole_file
from finetune.training.curves import Point, read_curves
from finetune.version import __version__
from finetune.watching import usage
from finetune.watching.asked import Asked, asked, differing, homes, preset_of, whole_recipe, without_home
from finetune.watching.charts import FRAME, Chart, curve_charts
from finetune.watching.curves import seconds
from finetune.watching.pictures import Data, Figure, Strip, previews, side_by_side, trained_on
from finetune.watching.seen import Seen, look

_TITLES = {
    "lora": "LoRA",
    "dreambooth": "DreamBooth",
    "full": "Full fine-tuning",
    "controlnet": "ControlNet",
    "embedding": "Textual inversion",
    "distill": "Distillation",
    "pretrain": "Pretraining",
}
MOST_RUNS = 12
"""Runs side by side; more colors cannot be told apart."""


@dataclass(frozen=True)
class Page:
    """What the page of one run shows, in the order of the page."""

    run: Seen
    title: str
    model: str
    facts: tuple[tuple[str, str], ...]
    failure: str
    hero: Figure | None
    preset: str | None
    asked: tuple[Asked, ...]
    recipe: str
    data: Data
    said: tuple[str, ...]
    charts: tuple[Chart, ...]
    strips: tuple[Strip, ...]
    results: tuple[usage.Made, ...]
    command: str | None
    snippet: str | None
    repeat: str
    versions: tuple[tuple[str, str], ...]
    digest: str


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the report of a run, or of several side by side.

    Args:
        folders: The run folders; a running or interrupted run is shown as far as it is.
        out: The file, replaced if it exists; `report.html` in the folder of a single run if None.

    Returns:
        The file.

    Raises:
        UserError: If one is no run folder, there are too many, or several and no file is named.
    """
    if len(folders) > MOST_RUNS:
        raise UserError(f"At most {MOST_RUNS} runs fit on a page.", fix="Choose some of them.")
    runs = [look(folder) for folder in folders]
    if out is None and len(runs) > 1:
        raise UserError("The report of several runs is in no run folder.", fix="Say where with -o FILE.html.")
    out = out or runs[0].folder.report
    text = render(runs[0]) if len(runs) == 1 else render_several(runs)
    with whole_file(out) as aside:
        aside.write_text(text, encoding="utf-8", errors="replace")
    return out


def render(run: Seen) -> str:
    """The page of one run."""
    return _templates().get_template("report.html").render(page=_page(run), version=__version__)


def render_several(runs: Sequence[Seen]) -> str:
    """The page of several runs: what differs, curves together, the latest previews side by side."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder.path) for run in runs]
    rows = differing(runs)
    charts = curve_charts([(name, _all_curves(run)) for name, run in zip(names, runs, strict=True)])
    page = _templates().get_template("runs.html")
    return page.render(
        names=names,
        runs=[_facts(run) for run in runs],
        rows=rows,
        charts=charts,
        previews=side_by_side({name: run.folder for name, run in zip(names, runs, strict=True)}),
        version=__version__,
    )


def _page(run: Seen) -> Page:
    about, data = usage.about(run), trained_on(run)
    preset, strips, place = preset_of(run, about), tuple(previews(run.folder)), _place(run)
    hidden = homes(run.recipe)
    prompt = _prompt(run, strips, data)
    curves = _all_curves(run)
    said = run.folder.summary.read_text(encoding="utf-8").splitlines() if run.folder.summary.is_file() else []
    failure = run.folder.failure.read_text(encoding="utf-8") if run.state == "failed" else ""
    versions = {"finetune": about.get("finetune.version"), **json.loads(about.get("finetune.versions", "{}"))}
    return Page(
        run,
        _TITLES.get(run.kind, run.kind),
        without_home(str(run.recipe.get("model", {}).get("name"))),
        tuple(_facts(run)),
        _hidden(failure, hidden),
        strips[0].figures[-1] if strips else None,
        preset,
        tuple(asked(run, preset)),
        whole_recipe(run),
        data,
        tuple(_hidden(line, hidden) for line in said),
        tuple(curve_charts([("", curves)])),
        strips,
        tuple(usage.results(run)) if run.state == "finished" else (),
        usage.sample_command(run, place, prompt),
        usage.snippet(run, place, prompt),
        f"finetune run {shlex.quote(place)}" + ("" if run.state == "finished" else " --resume"),
        tuple((name, version) for name, version in versions.items() if version),
        about.get("finetune.data_digest", ""),
    )


def _facts(run: Seen) -> list[tuple[str, str]]:
    """The few numbers at the top."""
    training = run.recipe.get("training", {})
    rows = int(training.get("batch_size") or 1) * int(training.get("accumulation") or 1)
    spent = seconds(run.curves.get("images_per_second", []), rows)
    facts = [("State", run.state.capitalize()), ("Steps", f"{run.step:,} of {run.steps:,}")]
    if run.loss is not None:
        facts.append(("Loss, smoothed", f"{run.loss:.4f}"))
    facts.append(("Pictures a step", f"{rows:,}"))
    if spent:
        facts.append(("Time in steps", f"about {duration(spent)}"))
    return [*facts, ("On disk", size(run.size)), ("Last written", f"{run.written:%Y-%m-%d %H:%M}")]


def _all_curves(run: Seen) -> dict[str, list[Point]]:
    """What was logged, of steps, held-out pictures and evaluations."""
    folder = run.folder
    return {**run.curves, **read_curves(folder.validation), **read_curves(folder.evaluation)}


def _place(run: Seen) -> str:
    """The run's folder as commands name it: from here, if it is below; else by its name alone."""
    path = run.folder.path
    if not path.is_absolute() and ".." not in path.parts:
        return str(path)
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return run.name


def _prompt(run: Seen, strips: Sequence[Strip], data: Data) -> str:
    """Something to ask for: the first prompt of the previews, or a caption."""
    found = [strip.prompt for strip in strips] + [figure.caption.split("\n")[0] for figure in data.figures]
    return next((prompt for prompt in found if prompt), "a picture")


def _hidden(text: str, folders: Sequence[str]) -> str:
    """Text in which folders have become their last part."""
    for folder in folders:
        text = text.replace(folder, Path(folder).name)
    return text


def duration(spent: float) -> str:
    """A time for people: 1:05:30 h, 2:10 min, 12 s."""
    if spent < 60:
        return f"{spent:.0f} s"
    minutes, rest = divmod(round(spent), 60)
    return f"{timedelta(seconds=round(spent))} h" if minutes >= 60 else f"{minutes}:{rest:02d} min"


def _code(text: str) -> Markup:
    """A setting's description, in which values stand between backticks."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup(f"<code>{p}</code>") if n % 2 else p for n, p in enumerate(parts))


def size(count: int) -> str:
    """A number of bytes for people, such as 4.2 MB."""
    return ByteSize(count).human_readable(decimal=True, separator=" ")


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("finetune.watching"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(size=size, code=_code)
    made.globals["drawing"] = FRAME
    return made
