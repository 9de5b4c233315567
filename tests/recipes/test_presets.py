"""Defaults by kind and model."""

from __future__ import annotations

import pytest

from finetune.recipes import RECIPES, build, with_preset
from finetune.recipes.fields import setting_fields
from finetune.recipes.load import Setting
from finetune.recipes.presets import preset_values, presets

PICTURES = Setting("data.instance_dir", "x", "here")


@pytest.mark.parametrize("kind", RECIPES)
def test_every_preset_is_valid_and_names_known_settings(kind: str) -> None:
    new = "model.name" in RECIPES[kind].unused
    assert set(presets(kind)) == ({"sd1"} if new else {"storybook", "sd1", "sd2", "sdxl"})
    for values in presets(kind).values():
        settings = [Setting(f"{s}.{k}", v, "preset") for s, keys in values.items() for k, v in keys.items()]
        assert {setting.key for setting in settings} <= set(setting_fields(RECIPES[kind]))
        folder = Setting(f"data.{RECIPES[kind].folder_field}", "x", "here")
        build(kind, [folder, *settings])


def test_a_preset_fills_in_only_what_was_not_given() -> None:
    usual = with_preset(build("lora", [PICTURES]), "sdxl")
    assert usual.model_dump()["adapter"]["rank"] == preset_values("lora", "adapter.rank")["sdxl"]
    # A value counts as given even where it is the type's default.
    given = build("lora", [PICTURES, Setting("adapter.rank", 16, "here")])
    assert with_preset(given, "sdxl").model_dump()["adapter"]["rank"] == 16
    # Once all is written out, no preset changes anything.
    whole = type(usual).model_validate(usual.model_dump())
    assert with_preset(whole, "storybook") == whole
    assert with_preset(whole, "a family without presets") == whole


@pytest.mark.parametrize("kind", [kind for kind in RECIPES if kind != "pretrain"])
def test_previews_cost_at_most_a_twentieth_of_a_run(kind: str) -> None:
    """In forward passes of the UNet: a trained row takes three, since backward takes two."""
    for model in presets(kind):
        folder = Setting(f"data.{RECIPES[kind].folder_field}", "x", "here")
        recipe = with_preset(build(kind, [folder]), model)
        preview, training = recipe.preview, recipe.training
        picture = preview.steps * (2 if preview.guidance > 1 else 1)
        sampled = training.steps // preview.every * preview.num * picture
        trained = 3 * training.steps * training.batch_size * training.accumulation
        assert sampled <= 0.05 * trained
