"""What all sections of settings have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from finetune.config.choices import Choices, choices_of

Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1, le=10**12)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AmountAboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]


LONGEST = 10_000
"""Most characters of any text in a recipe."""

# Control characters and lone surrogates: no file name may contain them, no terminal shows them.
_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with the settings.

    Attributes:
        what: One sentence that says what is wrong.
        where: The dotted key of the setting; becomes the flag or file it was given in.
        fix: One sentence that says what to do instead.
    """

    what: str
    where: str
    fix: str | None = None


@dataclass(frozen=True)
class Need:
    """A setting that has an effect only with some values of another.

    Attributes:
        key: The setting's dotted key.
        other: The other's name in the same section.
        values: The other's values with which it has an effect; all that turn it on if empty.
        example: Such a value, for the fix.
    """

    key: str
    other: str
    values: tuple[str, ...] = ()
    example: str = ""


LONGEST_NAME = 200
"""Most bytes of a name given to files; file systems allow 255, and suffixes need some."""

NO_NAME = "pictures"
"""What a run is named after where there is nothing to name it after."""

# What Windows forbids in a name, and the names that mean devices there, with any suffix.
_NOT_IN_NAMES = re.compile(r'[<>:"|?*]')
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9])(\..*)?", re.IGNORECASE)


def name_fault(name: str) -> Fault | None:
    """What is wrong with the name of a shared file (`output.name`); None if nothing.

    A name must work on every system, in a shell and on a terminal.
    """
    where = "output.name"
    if len(name.encode()) > LONGEST_NAME:
        return Fault("This name is too long for a file.", where, f"Use at most {LONGEST_NAME} bytes.")
    if re.search(r"[/\\]", name) or name in {"", ".", ".."}:
        return Fault(f"{name!r} is not a file name.", where, "Give a name without a folder or a slash.")
    bare = name[0] not in "-. " and name[-1] not in ". "
    if not bare or not name.isprintable() or _NOT_IN_NAMES.search(name) or _DEVICES.fullmatch(name):
        return Fault(f"{name!r} is not a file name on every system.", where, "Use letters, digits, - and _.")
    return None


def plain_name(name: str) -> str:
    """A name made fit for a file, at most half as long as one may be; `NO_NAME` if nothing of it is left."""
    plain = re.sub(r"[^\w.-]+", "-", name).encode(errors="ignore")[: LONGEST_NAME // 2]
    return plain.decode(errors="ignore").strip("-.") or NO_NAME


def check_text(value: Any) -> None:
    """Refuses text, also in lists and dictionaries, that cannot be shown or is absurdly long.

    Raises:
        PydanticCustomError: For pydantic to report.
    """
    if isinstance(value, str | Path):
        if _NOT_TEXT.search(str(value)):
            raise PydanticCustomError("plain_text", "text without control characters")
        if len(str(value)) > LONGEST:
            raise PydanticCustomError("long_text", f"text of at most {LONGEST:,} characters")
    elif isinstance(value, dict):
        check_text([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for part in value:
            check_text(part)


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after validation."""

    needs: ClassVar[tuple[Need, ...]] = ()

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = list(_kinds(cls.model_fields[info.field_name or ""].annotation))
        if any(isinstance(kind, type) and issubclass(kind, Section) for kind in kinds):
            return value  # each section checks its own, and can name the setting
        check_text(value)
        if (int in kinds or float in kinds) and bool not in kinds and _holds_bool(value):
            # To Python, True is 1.
            wanted = "a number" if isinstance(value, bool) else "made of numbers"
            raise PydanticCustomError("number", wanted)
        return value

    def public(self) -> dict[str, Any]:
        """As plain data for a published file: folders by their last name only, which is nobody's home."""
        values = self.model_dump(mode="json")
        for name in values:
            own = getattr(self, name)
            if isinstance(own, Path):
                values[name] = own.resolve().name
            elif isinstance(own, tuple) and own and isinstance(own[0], Section):
                values[name] = [entry.public() for entry in own]
        return values

    def faults(self) -> Iterator[Fault]:
        """Settings that are valid alone but would be ignored or cannot work together (P3).

        A section that overrides this yields its parent's first; a recipe collects those of all sections.
        """
        for need in self.needs:
            section, _, name = need.key.partition(".")
            other, chosen = f"{section}.{need.other}", getattr(self, need.other)
            if self._given(name) and need.values and chosen not in need.values:
                yield _without_effect(need.key, other, chosen, need.values)
            if self._given(name) and not need.values and not chosen:
                fix = f"Set {other} (such as {need.example}), or remove {need.key}."
                yield Fault(f"{need.key} has no effect without {other}.", need.key, fix)
        for name, field in type(self).model_fields.items():
            if (choices := choices_of(field)) is not None:
                yield from self._without_use(choices, getattr(self, name))

    def _without_use(self, choices: Choices[Any], chosen: str) -> Iterator[Fault]:
        """Settings that are given but have no effect with the chosen part."""
        section = choices.key.rpartition(".")[0]
        for setting in type(self).model_fields:
            able = choices.that_use(setting)
            if able and self._given(setting) and chosen not in able:
                yield _without_effect(f"{section}.{setting}", choices.key, chosen, able)

    def _given(self, setting: str) -> bool:
        return bool(getattr(self, setting) != type(self).model_fields[setting].default)


def _without_effect(key: str, other: str, chosen: str, able: Iterable[str]) -> Fault:
    return Fault(
        f"{key} has no effect while {other} is {chosen!r}.",
        key,
        f"Set {other}={', '.join(able)}, or remove {key}.",
    )


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def _holds_bool(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, bool) or any(map(_holds_bool, parts))
