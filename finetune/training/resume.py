"""Which checkpoint a run goes on from, and whether it is one of this run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.errors import ConfigError, WeightsError
from finetune.training.checkpoint import Checkpoint, read_checkpoint
from finetune.training.run_folder import RunFolder


def newest_whole(folder: RunFolder) -> tuple[Checkpoint | None, dict[Path, WeightsError]]:
    """The newest checkpoint that is whole, and what is wrong with those that are newer.

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
    """Refuses to go on with a run whose settings, model or data are others now.

    Args:
        before: What the checkpoint says of its run.
        now: What is asked for.
        run: Its folder, for the message.
        words: What to say of a key that differs, where its name is not enough.
        again: How to go on with the settings it began with, a sentence.

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
        "Put the rest back as it was." if settings and len(keys) > len(settings) else "",
        "Put it back as it was." if not settings else "",
        "Without --resume a new run begins (in a folder of its own, if you name one).",
    ]
    raise ConfigError(
        f"The run cannot go on, since something is not as it was: {'; '.join(different)}.",
        where=str(run),
        fix=" ".join(fix for fix in fixes if fix),
    )


def check_fit(
    saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor], checkpoint: Path, again: str
) -> None:
    """Refuses tensors of other names, shapes or types than this run has.

    Args:
        saved: What the checkpoint holds.
        wanted: What this run trains.
        checkpoint: Its folder, for the message.
        again: How to go on with the settings it began with, a sentence.

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
