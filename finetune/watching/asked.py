"""What was asked of a run: the settings that differ from the preset, and from those of other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import to_jsonable_python

from finetune.backbones.resolve import published_family
from finetune.config import public_name
from finetune.recipes.fields import flatten, setting_fields
from finetune.recipes.load import RECIPES
from finetune.recipes.presets import presets
from finetune.watching.seen import Seen

# What every run has of its own, and is told elsewhere on a page.
_ELSEWHERE = ("kind", "output.dir")


@dataclass(frozen=True)
class Asked:
    """A setting that is not what the preset says.

    Attributes:
        key: Dotted.
        value: As the recipe's YAML has it.
        usual: What it would have been; empty if this version does not know the setting.
        meaning: Its description.
    """

    key: str
    value: str
    usual: str
    meaning: str


def asked(run: Seen, preset: str | None) -> list[Asked]:
    """The settings of a run that its preset or the setting's default does not give.

    Args:
        run: The run.
        preset: The preset's name, as `preset_of` finds it.
    """
    if run.kind not in RECIPES:
        return [Asked(key, shown(value), "", "") for key, value in settings(run).items()]
    fields, usual = setting_fields(RECIPES[run.kind]), usual_values(run.kind, preset)
    found: list[Asked] = []
    for key, value in settings(run).items():
        if key in fields and value == usual[key]:
            continue
        meaning = fields[key].description or "" if key in fields else ""
        found.append(Asked(key, shown(value), shown(usual[key]) if key in fields else "", meaning))
    return found


def usual_values(kind: str, preset: str | None) -> dict[str, Any]:
    """The value of each setting of a kind of recipe that nobody sets, as plain data."""
    given = presets(kind).get(preset or "", {})
    values: dict[str, Any] = {}
    for key, field in setting_fields(RECIPES[kind]).items():
        section, _, name = key.partition(".")
        default = to_jsonable_python(field.get_default(call_default_factory=True))
        values[key] = given.get(section, {}).get(name, default)
    return values


def preset_of(run: Seen, about: Mapping[str, str]) -> str | None:
    """The preset that a run began with: that of the bundled model, or of its model's family.

    Args:
        run: The run.
        about: What its results say of how they were made.

    Returns:
        None if it has none, or the model's family is not known from its folder.
    """
    from finetune.formats.families import FAMILY_NAMES

    name = str(run.recipe.get("model", {}).get("name"))
    known = presets(run.kind)
    if name == "storybook":
        return name if name in known else None
    family: str | None = published_family(name)
    base = about.get("ss_base_model_version")
    if family is None and base is not None:
        family = next((own for own, names in FAMILY_NAMES.items() if base in names.base_version), None)
    return family if family in known else None


def settings(run: Seen) -> dict[str, Any]:
    """All settings of a run by dotted key; paths by their last part, which is nobody's home."""
    values = {}
    for section, own in run.recipe.items():
        for key, value in own.items() if isinstance(own, dict) else ():
            values[f"{section}.{key}"] = without_home(value)
    return {key: value for key, value in values.items() if key not in _ELSEWHERE}


def whole_recipe(run: Seen) -> str:
    """The recipe as YAML, without folders."""
    return yaml.safe_dump(without_home(run.recipe), sort_keys=False, allow_unicode=True)


def differing(runs: Sequence[Seen]) -> list[tuple[str, list[str]]]:
    """The settings in which runs differ: dotted key, and the value of each run."""
    tables = [dict(flatten({"kind": run.kind, **settings(run)})) for run in runs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    rows = [(key, [shown(table[key]) if key in table else "" for table in tables]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def without_home(value: Any) -> Any:
    """Plain data in which absolute paths have become their last part."""
    if isinstance(value, dict):
        return {key: without_home(own) for key, own in value.items()}
    if isinstance(value, list):
        return [without_home(own) for own in value]
    if isinstance(value, str) and "\n" not in value and Path(value).expanduser().is_absolute():
        return public_name(value)
    return value


def homes(value: Any) -> list[str]:
    """The absolute paths in plain data, the longest first."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return sorted({home for own in value for home in homes(own)}, key=len, reverse=True)
    if isinstance(value, str) and len(value) > 1 and "\n" not in value and Path(value).is_absolute():
        return [value]
    return []


def shown(value: Any) -> str:
    """A value as a recipe's YAML has it, in one line."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and value:
        return value
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()
