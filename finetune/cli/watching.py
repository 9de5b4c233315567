"""Who watches a run of the command line, by its style."""

from __future__ import annotations

from pathlib import Path

from finetune.cli.style import event, style
from finetune.training.progress import Progress
from finetune.training.watcher import Event, Now, Watcher


class Events(Watcher):
    """Writes all it is told as events for programs."""

    def begin(self, folder: Path, steps: int, done: int) -> None:
        """Writes `start`."""
        event("start", folder=folder, step=done, steps=steps)

    def advance(self, now: Now) -> None:
        """Writes `step`, with what `metrics.jsonl` has of this one."""
        event(
            "step",
            step=now.step,
            steps=now.steps,
            **{
                **now.values,
                "smoothed_loss": now.loss,
                "seconds_left": now.seconds_left,
                "memory_bytes": now.memory,
            },
        )

    def happened(self, step: int, what: Event | None) -> None:
        """Writes `checkpoint`, `preview` or `validation`."""
        if what:
            loss = {} if what.loss is None else {"validation_loss": what.loss}
            event(what.kind, step=step, path=what.path, **loss, **what.values)

    def stopping(self) -> None:
        """Writes nothing: a signal may come in the middle of a line. A checkpoint and an error follow."""


def watcher() -> Watcher:
    """Who watches a run in the style of this command."""
    return {"full": Progress, "quiet": Watcher, "json": Events}[style()]()
