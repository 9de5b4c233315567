"""`metrics.jsonl`: one line a logged step."""

from __future__ import annotations

import json
from pathlib import Path

from finetune.files import named, whole_file


class Metrics:
    """Appends lines to the metrics file; after a resume, lines of steps that are redone go.

    Lines that cannot be read go too: a kill can leave half a line at the end.

    Args:
        path: The file.
        step: Steps taken so far; later lines in an existing file are removed.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        kept = [line for line in self._lines() if _step_of(line) <= step]
        with whole_file(path) as aside:
            aside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, step: int, **values: float) -> None:
        """Adds a line: the step and `values`."""
        with named(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        return self.path.read_text(encoding="utf-8", errors="replace").splitlines()


def _step_of(line: str) -> float:
    """The step of a line; infinite if it is no line of this file."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return float("inf")
