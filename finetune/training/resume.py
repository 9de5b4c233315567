"""Which checkpoint a run resumes from, and whether it belongs to this run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.errors import ConfigError, WeightsError
from finetune.training.checkpoint import Checkpoint, read_checkpoint
from finetune.training.run_folder import RunFolder


def newest_intact(folder: RunFolder) -> tuple[Checkpoint | None, dict[Path, WeightsError]]:
    """The newest intact checkpoint, and what is wrong with newer ones.

    Raises:
        WeightsError: If there are checkpoints, but all are damaged.
    """
    damaged: dict[Path, WeightsError] = {}
    for path in reversed(folder.checkpoints()):
        try:
            return read_checkpoint(path), damaged
        except WeightsError as error:
            damaged[path] = error
    if damaged:
        raise next(iter(damaged.values()))
    return None, damaged


def check_identity(
    before: Mapping[str, Any], now: Mapping[str, Any], run: Path, words: Mapping[str, str], again: str
) -> None:
    """Refuses to resume a run whose settings, model or data have changed.

    Args:
        before: What the checkpoint says of its run.
        now: What is asked for.
        run: Its folder, for the message.
        words: What to say of a key that differs, if its name is not enough.
        again: How to resume with the original settings, a sentence.

    Raises:
        ConfigError: Naming what differs.
    """
    keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if not keys:
        return
    different = [words.get(key, key) for key in keys]
    settings = [key for key in keys if "." in key]
    fixes = [
        again if settings else "",
        "Undo the other changes." if settings and len(keys) > len(settings) else "",
        "Undo the change." if not settings else "",
        "Without --resume a new run starts (in its own folder, if you name one).",
    ]
    raise ConfigError(
        f"The run cannot be resumed, because something has changed: {'; '.join(different)}.",
        where=str(run),
        fix=" ".join(fix for fix in fixes if fix),
    )


def check_fit(
    saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor], checkpoint: Path, again: str
) -> None:
    """Refuses tensors whose names, shapes or dtypes are not this run's.

    Args:
        saved: What the checkpoint holds.
        wanted: What this run trains.
        checkpoint: Its folder, for the message.
        again: How to resume with the original settings, a sentence.

    Raises:
        WeightsError: Naming the first that differs.
    """
    for name in sorted({*saved, *wanted}):
        here, there = _shape(wanted.get(name)), _shape(saved.get(name))
        if here != there:
            raise WeightsError(
                f"The checkpoint does not fit this run: {name} is {there}, not {here}.",
                where=str(checkpoint),
                fix=f"{again} Or start a new run.".strip(),
            )


def _shape(tensor: Tensor | None) -> str:
    if tensor is None:
        return "missing"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
