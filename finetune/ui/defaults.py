"""Whose defaults a form shows."""

from __future__ import annotations

from functools import cache

from finetune.backbones.outline import outline
from finetune.config import ModelSection
from finetune.errors import UserError
from finetune.recipes.model import resolved


def preset_for(model: str) -> str | None:
    """The preset of a model by its name: `storybook`, or its family's; None if there is no such model.

    No model is loaded, and nothing is downloaded.
    """
    try:
        return _preset_for(model)
    except (UserError, ValueError):  # not kept: it may be there the next time
        return None


@cache
def _preset_for(model: str) -> str:
    section, _ = resolved(ModelSection(name=model))
    return "storybook" if section.name == "storybook" else outline(section).family
