"""Defaults by kind of recipe and model, used where the user set nothing.

They are YAML files beside this module, one per kind, with one entry per model: `storybook` (the bundled
model) or a family, `sd1`, `sd2`, `sdxl`.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, TypeVar, cast

import yaml

from finetune.recipes.base import Recipe

RecipeT = TypeVar("RecipeT", bound=Recipe)

# The package's own files, which every --help reads: libyaml is many times faster than Python.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def presets(kind: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The presets of a kind of recipe: `{model: {section: {key: value}}}`; empty if it has none."""
    file = files("finetune.recipes") / "presets" / f"{kind}.yaml"
    if not file.is_file():
        return {}
    content = yaml.load(file.read_text(encoding="utf-8"), _LOADER)
    return cast("dict[str, dict[str, dict[str, Any]]]", content)


def with_preset(recipe: RecipeT, model: str) -> RecipeT:
    """The recipe with the preset of `model` where nothing was set; see `values_with_preset`."""
    return type(recipe).model_validate(values_with_preset(recipe, model))


def values_with_preset(recipe: Recipe, model: str) -> dict[str, Any]:
    """All settings as plain data, those of the preset where nothing was set.

    A warmup of the preset that is longer than the run is shortened to a tenth of the run.

    Args:
        recipe: Settings that were given count as set, whatever their value.
        model: `storybook` or a family.
    """
    values = recipe.model_dump()
    for section, keys in presets(recipe.kind).get(model, {}).items():
        given = getattr(recipe, section).model_fields_set
        values[section] |= {key: value for key, value in keys.items() if key not in given}
    steps, optimizer = values["training"]["steps"], values["optimizer"]
    if "warmup_steps" not in recipe.optimizer.model_fields_set and optimizer["warmup_steps"] > steps:
        optimizer["warmup_steps"] = steps // 10
    return values


def warmup_note(recipe: Recipe, resolved: Recipe, model: str) -> str | None:
    """A line for the user if the warmup of a preset was too long for the run; see `with_preset`.

    Args:
        recipe: What the user set.
        resolved: The same with the preset of `model`.
        model: `storybook` or a family.
    """
    preset = preset_values(recipe.kind, "optimizer.warmup_steps").get(model, 0)
    warmup = resolved.optimizer.warmup_steps
    if "warmup_steps" in recipe.optimizer.model_fields_set or warmup >= preset:
        return None
    return (
        f"The preset's warmup ({preset} steps) is longer than this run; "
        f"using {warmup} steps (optimizer.warmup_steps)."
    )


def preset_values(kind: str, key: str) -> dict[str, Any]:
    """The presets' values of one dotted key: `{model: value}`."""
    section, _, name = key.partition(".")
    found = {model: preset.get(section, {}) for model, preset in presets(kind).items()}
    return {model: keys[name] for model, keys in found.items() if name in keys}
