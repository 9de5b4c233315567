"""Faults in settings, reported in terms of what the user wrote.

A fault names what is wrong, where it was given (a flag, a line of a YAML file) and how to fix it.
All faults of a recipe are collected and reported at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from finetune.config.base import Fault
from finetune.errors import ConfigError
from finetune.recipes.fields import entry_type
from finetune.recipes.other_names import ANSWERS, entry_name_here, key_here

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text (put it in quotes)",
    "list": "a list",
    "dict": "names with values, {name: value}",
    "tuple": "a list",
    "path": "a path",
    "model": "a section with settings of its own",
}
_LONGEST = 80
_MOST_FAULTS = 20
BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
}
"""The bounds of numbers: pydantic's name of the error, that of the bound, and words before its value."""


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` is most likely a mistyping of, or None."""
    by_name = {candidate.lstrip("-"): candidate for candidate in candidates}
    found = difflib.get_close_matches(word.lstrip("-")[:100], list(by_name), n=1, cutoff=0.7)
    return by_name[found[0]] if found else None


def nearest_key(key: str, keys: Sequence[str]) -> str | None:
    """The dotted key that a mistyped dotted key most likely means.

    A correct name in the wrong section (`training.lr`, or just `lr`) wins over a similar spelling.
    """
    section, _, name = key.rpartition(".")
    names = {k: k.rpartition(".")[2] for k in keys}
    homes = {k.rpartition(".")[0]: k for k in keys if names[k] == name}
    if homes:
        return homes[nearest(section, homes) or next(iter(homes))]
    inside = [k for k in keys if section and k.startswith(section + ".")]
    for candidates in (inside, keys):
        if close := nearest(name, [names[k] for k in candidates]):
            return next(k for k in candidates if names[k] == close)
    return None


def raise_faults(faults: Sequence[Fault], origins: Mapping[str, str] | None = None) -> None:
    """Raises one ConfigError for all `faults`; returns if there are none.

    Args:
        faults: What is wrong.
        origins: Where each dotted key was given, e.g. `{"optimizer.lr": "--lr"}`.
    """
    places = origins or {}
    errors = [ConfigError(f.what, where=places.get(f.where, f.where), fix=f.fix) for f in faults]
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    lines = [f"{len(errors)} settings are wrong:", *(f"- {error}" for error in errors[:_MOST_FAULTS])]
    if len(errors) > _MOST_FAULTS:
        lines.append(f"… and {len(errors) - _MOST_FAULTS} more.")
    raise ConfigError("\n".join(lines))


def unknown_key(key: str, keys: Sequence[str]) -> Fault:
    """The fault for a dotted key that does not exist, with the nearest one that does."""
    return Fault(f"{cut(key)} is not a setting.", key, _instead(key, keys))


def _instead(key: str, keys: Sequence[str]) -> str:
    name = key.rpartition(".")[2]
    if known := key_here(name, keys):
        return f"Here it is called {known}."
    if name in ANSWERS:
        return ANSWERS[name]
    if near := nearest_key(key, keys):
        return f"Did you mean {near}?"
    names = list(dict.fromkeys(k.partition(".")[0] for k in keys))
    section = key.rpartition(".")[0] if len(names) > 1 else names[0]
    if siblings := [k.rpartition(".")[2] for k in keys if section and k.startswith(section + ".")]:
        return f"The settings of {section} are {', '.join(siblings)}."
    return f"The sections are {', '.join(names)}."


def read_validation_error(error: ValidationError, fields: Mapping[str, FieldInfo]) -> list[Fault]:
    """Turns pydantic's error into faults, one per setting.

    Args:
        error: What validation found.
        fields: Every dotted key's definition; its description says what would be right.
    """
    by_key: dict[str, list[Mapping[str, Any]]] = {}
    inside: list[Fault] = []
    for item in error.errors(include_url=False):
        location = [str(part) for part in item["loc"]]
        # What follows the setting's name is a member of a union or an index of a list.
        key = next((k for n in (2, 1) if (k := ".".join(location[:n])) in fields), location[0])
        entry, rest = entry_type(fields[key]) if key in fields else None, item["loc"][key.count(".") + 1 :]
        if entry is not None and rest:
            inside.append(_entry_fault(key, rest, dict(item), entry))
        else:
            by_key.setdefault(key, []).append(dict(item))
    return [*(_fault(key, items, fields.get(key)) for key, items in by_key.items()), *inside]


def _entry_fault(
    key: str, rest: Sequence[int | str], item: Mapping[str, Any], entry: type[BaseModel]
) -> Fault:
    """What is wrong with one entry of a list of sections; `rest` is its index and what is in it."""
    which, fields = f"entry {int(rest[0]) + 1} of {key}", entry.model_fields
    name = str(rest[1]) if len(rest) > 1 else ""
    settings = f"Its settings are {', '.join(fields)}."
    if not name:
        what = f"{which.capitalize()} must be a section of its own, not {show(item['input'])}."
        return Fault(what, key, settings)
    if name not in fields:
        what, near = f"{cut(name)} in {which} is not a setting.", nearest(name, fields)
        if known := entry_name_here(name, fields):
            return Fault(what, key, f"Here it is called {known}.")
        return Fault(what, key, f"Did you mean {near}?" if near else settings)
    if item["type"] == "missing":
        return Fault(f"{which.capitalize()} has no {name}.", key, f"Add it. {fields[name].description}")
    return replace(_fault(f"{name} in {which}", [item], fields[name]), where=key)


def _fault(key: str, items: list[Mapping[str, Any]], field: FieldInfo | None) -> Fault:
    wanted = list(dict.fromkeys(_wanted(item) for item in items))
    what = f"{key} must be {', or '.join(wanted)}, not {show(items[0]['input'])}."
    choices = [c for item in items if item["type"] == "literal_error" for c in _choices(item)]
    if near := nearest(str(items[0]["input"]), choices):
        return Fault(what, key, f"Did you mean {near}?")
    if field is None or not field.description:
        return Fault(what, key)
    if field.is_required() or field.default is None:
        return Fault(what, key, field.description)
    return Fault(what, key, f"{field.description.rstrip('.')} (default: {show(field.default)}).")


def _choices(item: Mapping[str, Any]) -> list[str]:
    """The allowed values, which pydantic (2.14) gives as text: `'a', 'b' or 'c'`."""
    return str(item["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")


def _wanted(item: Mapping[str, Any]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind in BOUNDS:
        name, words = BOUNDS[kind]
        return f"{words} {context[name]:g}"
    if kind == "finite_number":
        return "a finite number"
    if kind == "literal_error":
        return f"one of {', '.join(_choices(item))}"
    if kind in {"missing", "too_long"}:  # inside a tuple
        return "a list with as many values as its default"
    return _KINDS.get(kind.partition("_")[0], str(item["msg"]))


def cut(text: str) -> str:
    """Text, cut to fit in a line of a message."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def show(value: Any) -> str:
    """A value as it is written in a recipe, cut to fit in a message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return repr(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]!r} …"
    if isinstance(value, dict):
        return "a section" if value else "{}"
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number with many digits"
    return cut(str(list(value)) if isinstance(value, tuple) else str(value))
