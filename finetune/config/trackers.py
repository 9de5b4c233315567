"""The programs that a run can send its curves and previews to, one row each."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.config.choices import Choices, Row


@dataclass(frozen=True, kw_only=True)
class Tracker(Row):
    """One program.

    Attributes:
        library: What must be installed, as it is imported.
        make: "module:name" of a function that makes accelerate's tracker of it; see `training/trackers.py`.
    """

    library: str
    make: str


TRACKERS = Choices(
    "training.trackers",
    {
        "tensorboard": Tracker(library="tensorboard", make="finetune.training.trackers:tensorboard"),
        "wandb": Tracker(library="wandb", make="finetune.training.trackers:wandb"),
    },
)
