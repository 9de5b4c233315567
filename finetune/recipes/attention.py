"""What `training.attention: auto` means: the fastest way to compute attention on this machine."""

from __future__ import annotations

from accelerate.utils import broadcast_object_list

from finetune.backbones import Backbone
from finetune.backbones.precision import PRECISIONS, best_device
from finetune.recipes.base import Recipe
from finetune.recipes.load import load_recipe
from finetune.recipes.reporter import Reporter
from finetune.training import RunFolder
from finetune.training.speed import fastest_attention


def with_attention(recipe: Recipe, backbone: Backbone, folder: RunFolder, report: Reporter) -> Recipe:
    """The recipe with what `training.attention: auto` means here; a resumed run goes on as it began."""
    training = recipe.training
    if training.attention != "auto":
        return recipe
    if best_device().type == "cuda" and folder.recipe.exists():
        found, reason = load_recipe(folder.recipe).training.attention, None
    else:
        side = (recipe.data.resolution or backbone.native_size) // backbone.latent_factor
        dtype = PRECISIONS[training.precision]
        found, reason = fastest_attention(backbone.unet, side, training.batch_size, dtype)
    if best_device().type == "cuda":  # processes that measure for themselves could disagree
        (found,) = broadcast_object_list([found])
    if reason:
        report.tell(reason)
    return recipe.model_copy(update={"training": training.model_copy(update={"attention": found})})
