"""What is reported of a step, and `metrics.jsonl`: one line per logged step."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from finetune.files import named, whole_file


class Metrics:
    """Appends lines to the metrics file; a resume removes lines of steps that are repeated.

    Unreadable lines are removed too: a kill can leave half a line at the end.

    Args:
        path: The file.
        step: Steps taken so far; later lines in an existing file are removed.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        with whole_file(path) as aside:
            aside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, step: int, **values: float) -> None:
        """Adds a line: the step and `values`; what is not finite is null, since JSON has no NaN."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with named(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")


def _step_of(line: str) -> float:
    """The step of a line; infinite if it is not a line of this file."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return float("inf")


def mean_losses(
    accelerator: Accelerator, losses: Sequence[float], learned: Sequence[bool]
) -> dict[str, float]:
    """The mean losses of one step's rows, by what the rows are for.

    What is learned and what keeps the model as it was (`data.preserve`, class pictures) differ widely
    in size; their sum would say nothing about either.

    Args:
        accelerator: Sums over processes.
        losses: Of all rows of this process.
        learned: For each row, whether it shows something new.

    Returns:
        `loss` of what is learned and `preserved_loss`, each if the step had such rows.
    """
    rows = list(zip(losses, learned, strict=True))
    split = [[loss for loss, new in rows if new is kind] for kind in (True, False)]
    sums = torch.tensor([(sum(losses), len(losses)) for losses in split])
    if accelerator.num_processes > 1:
        sums = accelerator.reduce(sums.to(accelerator.device), "sum")
    names = ("loss", "preserved_loss")
    return {name: total / count for name, (total, count) in zip(names, sums.tolist(), strict=True) if count}
