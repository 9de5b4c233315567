"""Pictures for the page: the command `finetune sample`, as anybody could type it."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from finetune.config import ModelSection
from finetune.errors import ConfigError, UserError
from finetune.kinds import FORMS
from finetune.recipes.load import load_recipe
from finetune.ui.roots import Roots
from finetune.watching.seen import RECIPE, look

_OUTPUT = Path("samples") / "play"
_CONTROL = "PICTURE.png"  # how a recipe's flags name the control picture
_LOOK = 0.3  # seconds


@dataclass(frozen=True)
class Wanted:
    """What is asked for, in terms of the page.

    Attributes:
        prompt: What to show.
        source: A run folder, a checkpoint of one, a file, or nothing for the model alone.
        weight: Of a LoRA.
        model: Overrides the model that the source was made for; may be empty.
        flags: Flag and value of all that `finetune sample` has for it, such as `--steps`.
        grids: What an X/Y plot varies, as `--grid` takes it.
        control: The control picture of a ControlNet.
    """

    prompt: str
    source: str = ""
    weight: float = 1.0
    model: str = ""
    flags: tuple[tuple[str, str], ...] = ()
    grids: tuple[str, ...] = ()
    control: str | None = None


def sources(roots: Roots) -> list[tuple[str, str]]:
    """What can be sampled from: label and path of finished runs and of checkpoints, the latest run first."""
    found: list[tuple[str, str]] = []
    for path in roots.runs():
        try:
            run = look(path)
        except ConfigError:
            continue
        place = roots.shown(path)
        if run.state == "finished":
            found.append((f"{run.name} ({run.kind})", place))
        if run.kind in FORMS:
            steps = [c.name.removeprefix("step-").lstrip("0") for c in run.folder.checkpoints()]
            found += [
                (f"{run.name}, step {step}", f"{place}/checkpoints/{checkpoint.name}")
                for step, checkpoint in zip(steps, run.folder.checkpoints(), strict=False)
            ]
    return found


def usual(source: str, roots: Roots) -> tuple[int, float] | None:
    """The steps and the guidance that a run says it wants; None if it says nothing."""
    try:
        flags = shlex.split(
            load_recipe(_run_of(roots.inside(source, "source")) / RECIPE).sample_flags(Path())
        )
        return int(flags[flags.index("--steps") + 1]), float(flags[flags.index("--guidance") + 1])
    except (UserError, ValueError):
        return None


def _run_of(path: Path) -> Path:
    """The run that a checkpoint belongs to; the path itself if it is none."""
    return path.parent.parent if path.parent.name == "checkpoints" else path


def export_command(wanted: Wanted, roots: Roots) -> tuple[list[str], Path] | None:
    """The command that makes a checkpoint usable, and its result; None if there is nothing to do."""
    path = roots.inside(wanted.source, "source") if wanted.source else None
    if path is None or _run_of(path) == path:
        return None
    kind = look(_run_of(path)).kind
    if kind not in FORMS:
        raise UserError("Checkpoints of this kind of run cannot be sampled.", where=wanted.source)
    form = FORMS[kind]
    state = f"{path} {path.stat().st_mtime_ns}"
    name = f"{_run_of(path).name}-{path.name}-{hashlib.sha256(state.encode()).hexdigest()[:8]}"
    made = roots.folders[0] / _OUTPUT / ".checkpoints" / (name if form == "merged" else f"{name}.safetensors")
    return ["export", wanted.source, "--to", form, "--output", roots.shown(made)], made


def sample_command(wanted: Wanted, roots: Roots, made: Path | None = None) -> list[str]:
    """What follows `finetune` to sample.

    Args:
        wanted: What is asked for.
        roots: What the source must be in.
        made: What `export_command` says is made of a checkpoint.

    Raises:
        UserError: If there is no such source, or a control picture is missing.
    """
    flags = dict(wanted.flags)
    own: list[str] = []
    if wanted.source:
        path = roots.inside(wanted.source, "source")
        if not path.exists():
            raise UserError(
                "There is nothing to sample from.", where=wanted.source, fix="Choose a run or a file."
            )
        own = _flags_of(path, made, wanted, roots)
    while own:
        flag, value, *own = own
        flags.setdefault(flag, value)
    sets: list[str] = []
    if made is not None and "--model" not in flags and not wanted.model:
        # A file does not say where its model is (P7), but the run does.
        flags["--model"], sets = _model_of(_run_of(path))
    if wanted.model:
        flags["--model"] = wanted.model
    if _CONTROL in flags.get("--controlnet", ""):
        if wanted.control is None:
            raise UserError("A ControlNet follows a picture.", where="control picture", fix="Give one.")
        flags["--controlnet"] = flags["--controlnet"].replace(_CONTROL, wanted.control)
    rest = [part for flag, value in flags.items() if value != "" for part in (flag, value)]
    grids = [part for grid in wanted.grids for part in ("--grid", grid)]
    return ["sample", *rest, *sets, *grids, "--", wanted.prompt]


def _flags_of(path: Path, made: Path | None, wanted: Wanted, roots: Roots) -> list[str]:
    """Flags that use a run, a checkpoint of one, or a file."""
    place = roots.shown(path)
    if (recipe := _run_of(path) / RECIPE).is_file():
        flags = shlex.split(load_recipe(recipe).sample_flags(Path(place)))
        if made is not None:
            flags[1] = roots.shown(made)
    else:
        from finetune.export import what_is

        kind = what_is(path).kind
        flags = [f"--{kind}", f"{place}:{_CONTROL}" if kind == "controlnet" else place]
    if flags[0] == "--lora" and wanted.weight != 1:
        flags[1] += f":{wanted.weight:g}"
    return flags


def _model_of(run: Path) -> tuple[str, list[str]]:
    """The model of a run, and `--set` for what its recipe sets of it, but for what only a user may allow."""
    model = load_recipe(run / RECIPE).model
    usual = ModelSection().model_dump()
    values = {key: value for key, value in model.model_dump().items() if value != usual[key]}
    given = [f"model.{key}={value}" for key, value in values.items() if key not in ("name", "allow_pickle")]
    return model.name, [part for one in given for part in ("--set", one)]


def new_folder(roots: Roots) -> Path:
    """A new folder for pictures, below the working directory."""
    place = roots.folders[0] / _OUTPUT
    for number in count(1):
        folder = place / f"{number:04d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError


def done(arguments: Sequence[str], roots: Roots) -> Iterator[str]:
    """Runs a command to its end; it is stopped if this is closed before.

    Yields:
        The last line that it has written, each time it is looked at.

    Raises:
        UserError: If it failed, with what it said.
    """
    with tempfile.TemporaryDirectory() as aside:
        place = Path(aside) / "log"
        with place.open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "finetune", *arguments],
                cwd=roots.folders[0],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            while child.poll() is None:
                yield (_said(place).splitlines() or [""])[-1]
                time.sleep(_LOOK)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        if child.returncode:
            raise UserError(_said(place).strip() or f"finetune {arguments[0]} failed.")


def _said(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
