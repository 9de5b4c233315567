"""How long a run is: samples of a step, and the steps that some epochs come to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from finetune.config import TrainingSection

if TYPE_CHECKING:
    from finetune.data import Folder
    from finetune.recipes.base import Recipe

RecipeT = TypeVar("RecipeT", bound="Recipe")


def samples_per_step(training: TrainingSection) -> int:
    """Samples that an optimizer step sees, over all the processes that were started."""
    from accelerate import PartialState

    return training.samples_per_step(PartialState().num_processes)


def in_steps(recipe: RecipeT, pictures: Folder, resolved: Recipe) -> RecipeT:
    """The recipe with the epochs that it asks for, if any, as steps; the last step begun is completed.

    Args:
        recipe: What the user set.
        pictures: What its `scan` found.
        resolved: The same recipe with presets filled in.
    """
    from finetune.data.epoch import epoch_length

    if recipe.training.epochs is None:
        return recipe
    epoch = epoch_length(pictures.pictures * (1 + len(resolved.data.extra_resolutions)))
    steps = math.ceil(recipe.training.epochs * epoch / samples_per_step(resolved.training))
    training = recipe.training.model_copy(update={"epochs": None, "steps": steps})
    return recipe.model_copy(update={"training": training})
