"""The form is a view of the recipe: its texts are the settings' own, and mean the same."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from pydantic_core import to_jsonable_python

from finetune.cli.main import cli
from finetune.recipes.fields import sections, setting_fields
from finetune.recipes.load import RECIPES
from finetune.ui import form
from finetune.ui.roots import Roots
from finetune.watching.asked import shown


@pytest.mark.parametrize("kind", RECIPES)
def test_what_a_form_shows_of_a_default_means_the_default(kind: str) -> None:
    for key, field in setting_fields(RECIPES[kind]).items():
        value = to_jsonable_python(field.get_default(call_default_factory=True))
        if value is None or value == "":
            continue
        text = form.changed(form.fresh(kind), {key: shown(value)})
        given = form.read(text)[1]
        section, name = key.split(".")
        made = sections(RECIPES[kind])[section].model_validate({name: given[key]})
        assert to_jsonable_python(getattr(made, name)) == value, key
        assert form.texts(text)[key] == shown(value), key


@pytest.mark.parametrize("kind", RECIPES)
def test_the_settings_in_front_are_the_flags_of_the_command(kind: str) -> None:
    command = cli.get_command(click.Context(cli), kind)
    assert command is not None
    flags = {option for parameter in command.params for option in parameter.opts}
    assert len(form.front(kind)) + 1 == len(flags - {"--set", "--resume"})
    fields = form.fields_of(kind, None)
    for key in form.front(kind):
        assert fields[key].help.startswith(
            (setting_fields(RECIPES[kind])[key].description or "?").rstrip(".")
        )


def test_ranges_choices_and_defaults() -> None:
    fields = form.fields_of("lora", "storybook")
    assert fields["data.resolution"].help.endswith("At least 32, at most 4096, a multiple of 8.")
    assert fields["optimizer.lr"].help.endswith("More than 0, at most 10.")
    assert fields["training.steps"].help.endswith("At least 1.")  # 10**12 is no limit to speak of
    assert fields["training.precision"].choices == ("auto", "fp32", "bf16", "fp16")
    assert fields["adapter.dora"].choices == ("true", "false")
    assert fields["training.steps"].default == "200"  # of the preset
    assert form.fields_of("lora", "sd1")["training.steps"].default == "800"


def test_changes_keep_the_rest_and_an_empty_text_unsets() -> None:
    text = form.changed(
        "kind: lora\ntraining: {steps: 5}\n", {"optimizer.lr": "1e-4", "data.instance_prompt": "1"}
    )
    assert form.read(text) == (
        "lora",
        {"training.steps": 5, "optimizer.lr": 0.0001, "data.instance_prompt": "1"},
    )
    assert form.read(form.changed(text, {"training.steps": "", "optimizer.lr": ""}))[1] == {
        "data.instance_prompt": "1"
    }


def test_another_kind_takes_the_pictures_along_and_names_what_it_leaves() -> None:
    text = form.changed(form.fresh("lora", "cats"), {"data.class_prompt": "a cat", "training.steps": "7"})
    other, dropped = form.other_kind(text, "full")
    assert form.read(other) == ("full", {"data.data_dir": "cats", "training.steps": 7})
    assert dropped == ["data.class_prompt"]


def test_faults_have_the_key_of_their_setting(roots: Roots) -> None:
    good = form.fresh("lora", "mycat")
    assert form.faults_in(good, roots) == []
    faults = form.faults_in(form.changed(good, {"training.steps": "many", "optimizer.lr": "99"}), roots)
    assert {fault.where for fault in faults} == {"training.steps", "optimizer.lr"}
    assert "at most 10" in next(f.what for f in faults if f.where == "optimizer.lr")
    (fault,) = form.faults_in("kind: lora\n  x: [", roots)
    assert "YAML" in fault.what


def test_folders_outside_of_the_roots_are_refused(roots: Roots, tmp_path: Path) -> None:
    outside = tmp_path.parent
    (tmp_path / "link").symlink_to(outside)
    for text in (
        form.fresh("lora", str(outside)),
        form.fresh("lora", ".."),
        form.fresh("lora", "link"),
        form.fresh("lora", "mycat/../.."),
        form.changed(form.fresh("lora", "mycat"), {"data.sources": f"[{{dir: {outside}}}]"}),
        form.changed(form.fresh("lora", "mycat"), {"output.dir": str(outside / "run")}),
        form.changed(form.fresh("lora", "mycat"), {"data.class_dir": "../cats"}),
        form.changed(form.fresh("lora"), {"data.dataset": str(outside)}),
    ):
        assert "outside" in " ".join(fault.what for fault in form.faults_in(text, roots)), text
    assert Roots.of((outside,)).inside("link", "here") == outside.resolve()
