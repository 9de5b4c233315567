"""Runs as processes of their own: started, stopped and resumed, as on the command line.

Beside a run folder, in `.started`, lie what a run that was started here was given (`NAME.asked.yaml`), what
it said (`NAME.log`) and which process it is (`NAME.json`). A run goes on when the page, or its server, ends.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil

from finetune.errors import PlaceError, UserError
from finetune.files import whole_file
from finetune.recipes.faults import raise_faults
from finetune.recipes.load import build, read_recipe_text
from finetune.recipes.place import LOCK, RUNS, state_of
from finetune.ui.form import WHERE, faults_in
from finetune.ui.roots import Roots
from finetune.watching.seen import RECIPE

_FOLDER = ".started"
_OWNER = re.compile(r"process (\d+) on (.+)")
_ONE_AT_A_TIME = threading.Lock()
_children: dict[int, subprocess.Popen[bytes]] = {}
_TAIL = 64_000  # bytes of a log that are read


@dataclass(frozen=True)
class Started:
    """A run that was started here.

    Attributes:
        folder: The run's; it may not exist yet.
    """

    folder: Path

    def _file(self, suffix: str) -> Path:
        return self.folder.parent / _FOLDER / f"{self.folder.name}{suffix}"

    @property
    def recipe(self) -> Path:
        """What it was given."""
        return self._file(".asked.yaml")

    @property
    def log(self) -> Path:
        """What it said."""
        return self._file(".log")

    @property
    def record(self) -> Path:
        """Which process it is."""
        return self._file(".json")

    def process(self) -> psutil.Process | None:
        """Its process, if that is still there."""
        try:
            known = json.loads(self.record.read_text(encoding="utf-8"))
            found = psutil.Process(int(known["process"]))
            same = abs(found.create_time() - float(known["began"])) < 1  # ids are reused
            alive = same and found.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return None
        return found if alive else None


def start(text: str, roots: Roots) -> Path:
    """Starts `finetune run` with a recipe.

    Args:
        text: The recipe's YAML.
        roots: What the recipe's folders must be in.

    Returns:
        The run's folder, which is there once the run has found nothing wrong.

    Raises:
        ConfigError: If something is wrong with the recipe.
        PlaceError: If a run is being made in its folder.
    """
    raise_faults(faults_in(text, roots))
    kind, settings = read_recipe_text(text, WHERE)
    recipe = build(kind, settings)
    with _ONE_AT_A_TIME:
        if recipe.output.dir is not None:
            run = Started(roots.inside(recipe.output.dir, "output.dir"))
        else:
            names = (recipe.run_name if n == 1 else f"{recipe.run_name}-{n}" for n in count(1))
            places = (Started(roots.folders[0] / RUNS / name) for name in names)
            free = (r for r in places if state_of(r.folder, recipe.finished_by) == "free" and not r.process())
            run = next(free)
        if run.process():
            raise PlaceError(
                "A run is being made in this folder.", where=str(run.folder), fix="Stop it first."
            )
        with whole_file(run.recipe) as aside:
            aside.write_text(text, encoding="utf-8")
        given = [roots.shown(run.recipe), "--output-dir", roots.shown(run.folder)]
        run.log.unlink(missing_ok=True)
        _begin(run, ["run", *given], roots.folders[0])
    return run.folder


def resume(folder: Path, roots: Roots) -> None:
    """Starts `finetune run FOLDER --resume`.

    Raises:
        PlaceError: If the run is running.
    """
    run = Started(roots.inside(folder, "run"))
    with _ONE_AT_A_TIME:
        if run.process() or owner(run.folder):
            raise PlaceError("This run is running.", where=roots.shown(folder), fix="Stop it first.")
        _begin(run, ["run", roots.shown(run.folder), "--resume"], roots.folders[0])


def _begin(run: Started, arguments: Sequence[str], where: Path) -> None:
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with run.log.open("ab") as log:
        log.write(f"$ finetune {' '.join(arguments)}\n".encode())
        log.flush()
        child = subprocess.Popen(
            [sys.executable, "-m", "finetune", *arguments],
            cwd=where,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal of the page is not for it
        )
    _children[child.pid] = child
    with suppress(psutil.Error):  # it has ended already
        began = psutil.Process(child.pid).create_time()
        with whole_file(run.record) as aside:
            aside.write_text(json.dumps({"process": child.pid, "began": began}), encoding="utf-8")


def owner(folder: Path) -> int | None:
    """The process on this machine that holds a run folder, as its lock says."""
    try:
        found = _OWNER.fullmatch((folder / LOCK).read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return None
    if found is None or found[2] != socket.gethostname() or not psutil.pid_exists(int(found[1])):
        return None
    return int(found[1])


def stop(folder: Path, roots: Roots) -> None:
    """Asks a run to write a checkpoint and end, whoever started it.

    Raises:
        UserError: If it is not running on this machine, or is not the user's.
    """
    folder = roots.inside(folder, "run")
    process = Started(folder).process()
    number = process.pid if process else owner(folder)
    try:
        if number is None:
            raise psutil.NoSuchProcess(0)
        psutil.Process(number).send_signal(signal.SIGTERM)
    except psutil.Error:
        raise UserError(
            "No process on this machine that may be stopped is making this run.",
            where=roots.shown(folder),
            fix="Stop it where it was started.",
        ) from None


def starting(roots: Roots) -> list[Started]:
    """Runs that were started here and have not written their recipe yet, the latest first.

    One whose process has ended did not get so far; its log says why.
    """
    for number in [n for n, child in _children.items() if child.poll() is not None]:
        del _children[number]
    records = [
        record
        for root in roots.folders
        for record in (root / RUNS / _FOLDER).glob("*.json")
        if record.is_file()
    ]
    records.sort(key=lambda record: record.stat().st_mtime, reverse=True)
    found = [Started(record.parent.parent / record.stem) for record in records]
    return [run for run in found if not (run.folder / RECIPE).is_file()]


def said(folder: Path) -> str:
    """The end of what a run said, if it was started here."""
    log = Started(folder).log
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
