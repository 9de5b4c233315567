"""What a run folder says of its run, without loading the model, the recipe's parts or torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from finetune.errors import ConfigError
from finetune.recipes.load import LARGEST, RECIPES
from finetune.recipes.place import in_use
from finetune.recipes.plain_yaml import parse_yaml
from finetune.training import RunFolder
from finetune.training.curves import Point, read_curves, smoothed
from finetune.training.run_folder import step_of

State = Literal["running", "finished", "interrupted", "failed"]
RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Seen:
    """A run as its folder shows it.

    Attributes:
        folder: Its folder.
        kind: Of its recipe.
        recipe: All settings as plain data, section by section.
        state: `running` while its lock is held, `finished` with all results, `failed` if something went
            wrong, else `interrupted`.
        curves: What it logged, as `read_curves` gives it.
        step: Steps done, as far as the folder tells.
        steps: Steps in all.
        loss: The smoothed loss of the last line of metrics; None before the first.
        written: When anything about its progress was last written.
        size: Of all its files, in bytes.
        checkpoints: Of those for resuming, in bytes.
    """

    folder: RunFolder
    kind: str
    recipe: dict[str, Any]
    state: State
    curves: dict[str, list[Point]]
    step: int
    steps: int
    loss: float | None
    written: datetime
    size: int
    checkpoints: int

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.path.resolve().name

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "run": str(self.folder.path),
            "recipe": self.kind,
            "model": self.recipe.get("model", {}).get("name"),
            "state": self.state,
            "step": self.step,
            "steps": self.steps,
            "loss": self.loss,
            "written": self.written.astimezone().isoformat(timespec="seconds"),
            "bytes": self.size,
            "checkpoint_bytes": self.checkpoints,
        }


def look(path: Path) -> Seen:
    """Looks at a run folder.

    Raises:
        ConfigError: If it is none, or its recipe cannot be read.
    """
    folder = RunFolder(path)
    recipe = _recipe(folder)
    kind = str(recipe.get("kind"))
    lines = read_curves(folder.metrics)
    loss = lines.get("loss", [])
    reached = [int(points[-1][0]) for points in lines.values()]
    reached += [step_of(checkpoint) for checkpoint in folder.checkpoints()]
    steps = int(recipe.get("training", {}).get("steps") or 0)
    finished_by = RECIPES[kind].finished_by if kind in RECIPES else ""
    state = _state(folder, finished_by)
    # The newest checkpoint may be gone, and the last lines not yet written.
    step = steps if state == "finished" else min(max(reached, default=0), steps)
    watched = [p for p in (folder.recipe, folder.metrics, folder.failure, path / finished_by) if p.exists()]
    written = datetime.fromtimestamp(max(p.stat().st_mtime for p in watched))
    size, kept = size_of(path), sum(size_of(place) for place in checkpoint_folders(folder))
    last = smoothed(loss)[-1][1] if loss else None
    return Seen(folder, kind, recipe, state, lines, step, steps, last, written, size, kept)


def runs_in(folder: Path) -> list[Path]:
    """The folder itself if it is a run, else the runs directly in it, by name.

    Raises:
        ConfigError: If there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(
            "There is no such folder.", where=str(folder), fix="Give a run folder, or a folder of runs."
        )
    if (folder / RECIPE).is_file():
        return [folder]
    return sorted(entry for entry in folder.iterdir() if (entry / RECIPE).is_file())


def checkpoint_folders(folder: RunFolder) -> Iterator[Path]:
    """Where a run, and what it trains first, keeps what resuming needs."""
    stages = {stage for kind in RECIPES.values() for stage in kind.stages}
    for place in (folder.path, *(folder.path / stage for stage in sorted(stages))):
        if (place / "checkpoints").is_dir():
            yield place / "checkpoints"


def size_of(path: Path) -> int:
    """Bytes of all files in a folder, or of a file; links count as nothing."""
    if path.is_symlink():
        return 0
    if path.is_dir():
        return sum(size_of(entry) for entry in path.iterdir())
    try:
        return path.stat().st_size
    except OSError:  # a running run has just removed it
        return 0


def _recipe(folder: RunFolder) -> dict[str, Any]:
    """The settings, whatever version wrote them: unknown ones do no harm here."""
    where = str(folder.recipe)
    if not folder.recipe.is_file() or folder.recipe.stat().st_size > LARGEST:
        raise ConfigError(
            "This is not a run folder.", where=where, fix="Give a folder in which a run left its recipe.yaml."
        )
    content = parse_yaml(folder.recipe.read_text(encoding="utf-8", errors="replace"), where)
    if not isinstance(content, dict) or not isinstance(content.get("training"), dict):
        raise ConfigError("This is not the recipe of a run.", where=where, fix="Give a run's own folder.")
    return content


def _state(folder: RunFolder, finished_by: str) -> State:
    if in_use(folder.path) is not None:
        return "running"
    if finished_by and (folder.path / finished_by).is_file():
        return "finished"
    return "failed" if folder.failure.is_file() else "interrupted"
