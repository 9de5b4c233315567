"""Where a run keeps what."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_STEP = re.compile(r"step-(\d+)")


class RunFolder:
    """The folder of one training run, laid out as the README shows.

    Args:
        path: The folder; made when the first file is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def recipe(self) -> Path:
        """The resolved recipe: `finetune run` on it gives the same result."""
        return self.path / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON line a logged step."""
        return self.path / "metrics.jsonl"

    @property
    def logs(self) -> Path:
        """TensorBoard event files."""
        return self.path / "logs"

    def sample(self, step: int) -> Path:
        """The preview grid made after `step` steps."""
        return self.path / "samples" / f"step-{step:06d}.png"

    def checkpoint(self, step: int) -> Path:
        """The folder that holds what resuming after `step` steps needs."""
        return self.path / "checkpoints" / f"step-{step:06d}"

    def checkpoints(self) -> list[Path]:
        """All complete checkpoints, oldest first (a checkpoint appears whole or not at all)."""
        folders = (self.path / "checkpoints").glob("step-*")
        return sorted((f for f in folders if _STEP.fullmatch(f.name)), key=lambda f: int(f.name[5:]))

    def latest(self) -> Path | None:
        """The newest checkpoint, or None."""
        found = self.checkpoints()
        return found[-1] if found else None

    def prune(self, keep: int) -> None:
        """Removes all but the newest `keep` checkpoints."""
        for folder in self.checkpoints()[:-keep]:
            shutil.rmtree(folder)
