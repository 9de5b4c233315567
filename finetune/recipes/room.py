"""Whether the disk has room for what a run will write, checked before any long work."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from finetune.errors import PlaceError

if TYPE_CHECKING:
    from finetune.recipes.run import Run


def check_room(this: Run) -> None:
    """Refuses a run whose first checkpoint would not fit on the disk.

    Weights and their average are as they are held, the optimizer's state has as many bytes per weight as its
    row says; what an optimizer keeps beyond one value per weight is not counted, so that no run is refused
    that would fit.

    Args:
        this: The run, before it has written anything.

    Raises:
        PlaceError: With what is needed and what is free.
    """
    state, copies = this.recipe.optimizer.row.state_bytes, 1 + this.recipe.training.ema
    needed = sum(p.numel() * (state + copies * p.element_size()) for p in this.trainer.parameters.values())
    free = shutil.disk_usage(this.folder.path).free  # exists since it was claimed
    if free < needed:
        raise PlaceError(
            f"The disk has no room for a checkpoint: it takes {_size(needed)}, but {_size(free)} is free.",
            where=str(this.folder.path),
            fix="Free some space, or choose a folder on another disk with --output-dir.",
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
