"""Settings as fields of a form, and the recipe's YAML that they are a view of (promise P5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from finetune.config.base import Fault
from finetune.config.choices import choices_of
from finetune.errors import ConfigError, PlaceError, UserError
from finetune.recipes.daily import daily
from finetune.recipes.faults import BOUNDS
from finetune.recipes.fields import setting_fields
from finetune.recipes.load import RECIPES, Sampled, Setting, find_faults, read_recipe_text
from finetune.recipes.plain_yaml import parse_yaml
from finetune.ui.roots import Roots
from finetune.watching.asked import shown, usual_values

WHERE = "the YAML"
"""What the text of the page is called in messages."""

_LABELS = {
    "optimizer.lr": "learning rate",
    "model.name": "model",
    "model.vae": "VAE",
    "output.dir": "output folder",
}
_UNBOUNDED = 1e9  # a limit above this says nothing to people


@dataclass(frozen=True)
class Field:
    """A setting as a form shows it; all of it is the setting's own.

    Attributes:
        key: Dotted.
        label: A few words.
        help: Its description, with its range.
        default: What it is if nobody sets it.
        choices: Its values, if they are a list.
    """

    key: str
    label: str
    help: str
    default: str
    choices: tuple[str, ...]


def fields_of(kind: str, preset: str | None) -> dict[str, Field]:
    """All settings of a kind of recipe that have an effect, by dotted key.

    Args:
        kind: A name in `RECIPES`.
        preset: The preset whose defaults are shown; None for the settings' own.
    """
    usual, unused = usual_values(kind, preset), RECIPES[kind].unused
    return {
        key: _field(key, field, usual[key])
        for key, field in setting_fields(RECIPES[kind]).items()
        if key not in unused
    }


def _field(key: str, field: FieldInfo, usual: Any) -> Field:
    kinds = types_in(field)
    literals = list(_literals(field))
    rows, text = choices_of(field), field.description or ""
    if limits := ", ".join(dict.fromkeys(_limits(field))):
        text = f"{text.rstrip('.')}. {limits[0].upper()}{limits[1:]}."
    label = _LABELS.get(key, re.sub(r"_dir$", "_folder", key.partition(".")[2]).replace("_", " "))
    # A number that may also be a word is typed.
    choices = list(rows or ()) or ([] if {int, float} & kinds else literals)
    if field.annotation is bool:
        choices = ["true", "false"]
    default = "" if usual is None or usual == "" else shown(usual)
    return Field(key, f"{label[0].upper()}{label[1:]}", text, default, tuple(choices))


def describe(key: str) -> str:
    """What a setting of `finetune sample` means.

    Args:
        key: Dotted.
    """
    return setting_fields(Sampled)[key].description or ""


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation) if get_origin(annotation) is not Literal else ():
        yield from _parts(part)


def _literals(field: FieldInfo) -> dict[str, Any]:
    """The values of a setting that are listed in its type, by how they are typed."""
    lists = [part for part in _parts(field.annotation) if get_origin(part) is Literal]
    return {str(value): value for part in lists for value in get_args(part)}


def _limits(field: FieldInfo) -> list[str]:
    words, found = dict(BOUNDS.values()), dict[str, str]()
    for mark in (*field.metadata, *_parts(field.annotation)):
        for one in mark.metadata if isinstance(mark, FieldInfo) else [mark]:
            for name, word in words.items():
                value = getattr(one, name, None)
                if isinstance(value, int | float) and value < _UNBOUNDED:
                    found[name] = f"{word} {value:g}"
    return [] if {"gt", "ge"} <= found.keys() else list(found.values())  # of either of two types


def fresh(kind: str, folder: str = "") -> str:
    """The YAML of a new recipe.

    Args:
        kind: A name in `RECIPES`.
        folder: Of the pictures; may be empty.
    """
    data = {"data": {RECIPES[kind].folder_field: folder}} if folder else {}
    return _dumped({"kind": kind, **data})


def read(text: str) -> tuple[str, dict[str, Any]]:
    """The kind of a recipe's YAML, and what it sets, by dotted key.

    Raises:
        ConfigError: If it is not a recipe.
    """
    kind, settings = read_recipe_text(text, WHERE)
    return kind, {setting.key: setting.value for setting in settings}


def texts(text: str) -> dict[str, str]:
    """What a recipe's YAML sets, as a form shows it; empty if it is not a recipe."""
    try:
        return {key: "" if value is None else shown(value) for key, value in read(text)[1].items()}
    except ConfigError:
        return {}


def changed(text: str, values: dict[str, str]) -> str:
    """A recipe's YAML with some settings changed; comments in it are lost.

    Args:
        text: YAML.
        values: As typed, by dotted key; an empty text unsets a setting.

    Raises:
        ConfigError: If the text is not a recipe, or a list or a section is not YAML.
    """
    kind, given = read(text)
    fields = setting_fields(RECIPES[kind])
    for key, value in values.items():
        if value == "":
            given.pop(key, None)
        else:
            given[key] = _value(fields[key], value, key) if key in fields else value
    return written(kind, given)


def written(kind: str, given: dict[str, Any]) -> str:
    """The YAML of some settings, by dotted key, in the order of the recipe's type."""
    order = list(setting_fields(RECIPES[kind]))
    content: dict[str, Any] = {"kind": kind}
    for key in sorted(given, key=lambda key: order.index(key) if key in order else len(order)):
        section, _, name = key.partition(".")
        if not name:
            content[section] = given[key]
        elif isinstance(content.setdefault(section, {}), dict):
            content[section][name] = given[key]
    return _dumped(content)


def _value(field: FieldInfo, value: str, key: str) -> Any:
    """What was typed, as YAML has it; the setting's type judges it later."""
    if value in (words := _literals(field)):
        return words[value]
    kinds = types_in(field)
    for number in (int, float):
        if number in kinds:
            try:
                return number(value)
            except ValueError:
                pass
    if kinds & {list, tuple, dict} or value in ("true", "false"):
        return parse_yaml(value, key)
    return value


def types_in(field: FieldInfo) -> set[type]:
    """The plain types in a setting's type, such as int, str, Path and list."""
    plain = [get_origin(part) or part for part in _parts(field.annotation)]
    return {part for part in plain if isinstance(part, type)}


def other_kind(text: str, kind: str) -> tuple[str, list[str]]:
    """A recipe's YAML for another kind of recipe.

    Args:
        text: YAML; what cannot be read gives a new recipe.
        kind: A name in `RECIPES`.

    Returns:
        The YAML, and the keys that it had to leave out; the folder of pictures moves along.
    """
    try:
        before, given = read(text)
    except ConfigError:
        return fresh(kind), []
    folder = given.pop(f"data.{RECIPES[before].folder_field}", None)
    if folder is not None:
        given[f"data.{RECIPES[kind].folder_field}"] = folder
    known = setting_fields(RECIPES[kind]).keys() - RECIPES[kind].unused
    dropped = [key for key in given if key not in known]
    return written(kind, {key: value for key, value in given.items() if key in known}), dropped


def faults_in(text: str, roots: Roots) -> list[Fault]:
    """Everything that is wrong with a recipe's YAML; the place of each is a dotted key where it has one."""
    try:
        kind, given = read(text)
        faults = find_faults(kind, [Setting(key, value, key) for key, value in given.items()])
    except UserError as error:
        return [Fault(error.what, error.where or WHERE, error.fix)]
    for key, value in paths_in(kind, given):
        try:
            roots.inside(value, key)
        except PlaceError as error:
            faults.append(Fault(error.what, key, error.fix))
    folder = f"data.{RECIPES[kind].folder_field}"
    if {folder, "data.sources", "data.dataset"} & given.keys():
        return faults
    # Without flags, which are for the command line.
    missing = Fault("No pictures are given.", folder, "Choose a folder of pictures.")
    return [missing if fault.where == folder else fault for fault in faults]


def paths_in(kind: str, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The files and folders that a recipe names, models left out: they are read, but never shown."""
    fields = setting_fields(RECIPES[kind])
    for key, value in given.items():
        if key not in fields or key.startswith("model."):
            continue
        if key == "data.dataset" and Path(str(value)).expanduser().exists():  # else it is on the Hub
            yield key, str(value)
        if isinstance(value, list):  # the entries of data.sources
            own = [entry for entry in value if isinstance(entry, dict)]
            yield from ((key, str(v)) for entry in own for name, v in entry.items() if name.endswith("dir"))
        elif Path in types_in(fields[key]) and value is not None:
            yield key, str(value)


def front(kind: str) -> list[str]:
    """The dotted keys of the daily settings, but for the folder of pictures, which is chosen on its own."""
    return [key for key in daily(kind).values() if key != f"data.{RECIPES[kind].folder_field}"]


def _dumped(content: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return text
