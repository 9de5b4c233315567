"""The sections and settings of a kind of recipe, and their dotted keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested settings with their dotted keys: `("optimizer.lr", 0.0001)`, …."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def sections(kind: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The sections of a kind of recipe by name: `{"model": ModelSection, …}`."""
    annotations = {name: field.annotation for name, field in kind.model_fields.items()}
    return {n: a for n, a in annotations.items() if isinstance(a, type) and issubclass(a, BaseModel)}


def entry_type(field: FieldInfo) -> type[BaseModel] | None:
    """The type of each entry, if the setting is a list of sections."""
    kinds = get_args(field.annotation)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def setting_fields(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    """The definition of every dotted key of a kind of recipe, in the order of the YAML file."""
    return {
        f"{name}.{key}": field
        for name, section in sections(kind).items()
        for key, field in section.model_fields.items()
    }


def changed(recipe: BaseModel, keys: Iterable[str]) -> list[str]:
    """Those of some dotted keys whose value is not the default, sorted."""
    fields = setting_fields(type(recipe))
    parts = [(key, *key.split(".", 1)) for key in sorted(keys)]
    return [key for key, own, name in parts if getattr(getattr(recipe, own), name) != fields[key].default]
