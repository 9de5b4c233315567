"""Where a run keeps its files."""

from __future__ import annotations

import json
import re
from pathlib import Path

from finetune.errors import PlaceError
from finetune.files import remove_folder

_STEP = re.compile(r"step-(\d+)")


class RunFolder:
    """The folder of one training run, laid out as the README shows.

    Args:
        path: The folder; created when the first file is written.

    Attributes:
        recipe: The resolved recipe: `finetune run` on it gives the same result.
        pictures: One JSON line per picture: what the run is trained on.
        skipped: The files that it is not trained on, and why, if they are many.
        summary: What was said about the pictures, a line each.
        failure: Why the run ended, if something went wrong; gone once it goes on.
        stream: One JSON line per block of a stream that was trained on: where it begins.
        metrics: One JSON line per logged step.
        validation: One JSON line each time the loss on held-out pictures was computed.
        evaluation: One JSON line each time the model was evaluated.
        best: Which of these steps was the best.
        logs: What trackers write, such as TensorBoard's event files.
        report: The run on one page.
        samples: The preview grids.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.pictures = path / "pictures.jsonl"
        self.skipped = path / "skipped.txt"
        self.summary = path / "summary.txt"
        self.failure = path / "failure.txt"
        self.stream = path / "stream.jsonl"
        self.metrics = path / "metrics.jsonl"
        self.validation = path / "validation.jsonl"
        self.evaluation = path / "evaluation.jsonl"
        self.best = path / "best.json"
        self.logs = path / "logs"
        self.report = path / "report.html"
        self.samples = path / "samples"

    def sample(self, step: int) -> Path:
        """The preview grid made after `step` steps."""
        return self.samples / f"step-{step:06d}.png"

    def checkpoint(self, step: int) -> Path:
        """The folder that holds what resuming after `step` steps needs."""
        return self.path / "checkpoints" / f"step-{step:06d}"

    def checkpoints(self) -> list[Path]:
        """All complete checkpoints, oldest first (a checkpoint appears whole or not at all)."""
        folders = (self.path / "checkpoints").glob("step-*")
        return sorted((f for f in folders if _STEP.fullmatch(f.name) and f.is_dir()), key=step_of)

    def check(self) -> None:
        """Refuses a folder in which something is a file that must be a folder, or the other way around.

        Raises:
            PlaceError: Naming it.
        """
        files = (self.recipe, self.pictures, self.stream, self.metrics, self.validation,
                 self.evaluation, self.best)  # fmt: skip
        folders = (self.path / "checkpoints", self.samples, self.logs)
        wrong = [path for path in files if path.is_dir()] + [path for path in folders if path.is_file()]
        if wrong:
            found, needed = ("folder", "file") if wrong[0].is_dir() else ("file", "folder")
            raise PlaceError(
                f"There is a {found} where the run needs a {needed}.",
                where=str(wrong[0]),
                fix="Move it away and resume again.",
            )

    def latest(self) -> Path | None:
        """The newest checkpoint, or None."""
        found = self.checkpoints()
        return found[-1] if found else None

    def last_good(self) -> str:
        """Says which checkpoint is the newest."""
        latest = self.latest()
        return f"The last good checkpoint is {latest}." if latest else "There is no checkpoint yet."

    def prune(self, keep: int, every: int) -> None:
        """Removes all but the newest checkpoint, the regular ones before it, `keep` in all, and the best.

        A checkpoint that an interruption wrote between two regular ones is removed as soon as there is
        a newer one, so that the run ends with the checkpoints of one that was never interrupted.

        Args:
            keep: How many to keep, at least 1.
            every: Steps between regular checkpoints.
        """
        *older, _ = self.checkpoints() or [self.path]
        regular = [folder for folder in older if step_of(folder) % every == 0]
        kept = regular[max(0, len(regular) - (keep - 1)) :]
        best = self.best_step()
        for folder in older:
            if folder not in kept and step_of(folder) != best:
                remove_folder(folder)

    def best_step(self) -> int | None:
        """The step that `best.json` names; None if there is no such file, or nothing to read in it."""
        try:
            return int(json.loads(self.best.read_text(encoding="utf-8"))["step"])
        except (OSError, ValueError, TypeError, KeyError):
            return None


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint, from its folder's name."""
    return int(checkpoint.name.removeprefix("step-"))
