"""`metrics.jsonl`: one line a logged step."""

from __future__ import annotations

import json
from pathlib import Path


class Metrics:
    """Appends lines to the metrics file; after a resume, lines of steps that are redone go.

    Args:
        path: The file.
        step: Steps taken so far; later lines in an existing file are removed.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, step: int, **values: float) -> None:
        """Adds a line: the step and `values`."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        # A kill can leave half a line at the end.
        return [line for line in self.path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
