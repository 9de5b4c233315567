"""Recipes: whole descriptions of training runs, and what carries them out.

The types can be read without torch; `run` loads it when it is called.
"""

from __future__ import annotations

from finetune.recipes.base import Recipe
from finetune.recipes.load import RECIPES, build, load_recipe
from finetune.recipes.lora import LoRARecipe
from finetune.recipes.presets import with_preset

__all__ = ["RECIPES", "LoRARecipe", "Recipe", "build", "load_recipe", "with_preset"]
