"""Flags made from the settings they stand for (promise P5).

A flag's help, default and type are those of the setting; its text goes unparsed into the recipe, whose
types parse it, so that a wrong value gets the same message from a flag, from `--set` and from YAML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from finetune.config import ModelSection, TrainingSection
from finetune.config.base import check_text
from finetune.config.choices import choices_of
from finetune.errors import ConfigError
from finetune.recipes.daily import FLAGS, daily
from finetune.recipes.faults import cut
from finetune.recipes.fields import setting_fields
from finetune.recipes.load import MODEL_KEYS, RECIPES, Setting, build_model, parse_set
from finetune.recipes.other_names import ANSWERS, key_here
from finetune.recipes.presets import preset_values, presets


class SettingsCommand(click.Command):
    """A command whose flags stand for settings; hints at how to reach a setting without a flag."""

    def __init__(self, *args: Any, keys: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keys = keys

    def hint(self, flag: str) -> str | None:
        """How to reach the setting that an unknown flag seems to mean."""
        name = flag.lstrip("-").replace("-", "_")
        for key in self.keys:
            if key.partition(".")[2] == name or key.replace(".", "_") == name:
                return f"Use --set {key}=VALUE."
        if known := key_here(name, self.keys):
            own = {option for parameter in self.params for option in parameter.opts}
            flags = [flag for flag, key in FLAGS.items() if key == known and flag in own]
            return f"Here it is {next(iter(flags), f'--set {known}=VALUE')}."
        return ANSWERS.get(name) if "training.steps" in self.keys else None


def setting_flag(
    flag: str, field: FieldInfo, *, default: str | None = None, text: str | None = None
) -> click.Option:
    """The flag of one setting.

    Args:
        flag: E.g. "--lr".
        field: The setting's definition.
        default: The default that help shows; the field's own if None.
        text: Help; the setting's description if None.
    """
    text = text if text is not None else field.description or ""
    if field.annotation is bool:
        return click.Option([flag], is_flag=True, default=None, help=text)
    shown = default if default is not None else _default(field.default)
    if shown:
        text += f"  [default: {shown}]"
    return click.Option([flag], type=click.UNPROCESSED, default=None, metavar=_metavar(field), help=text)


def _default(value: Any) -> str:
    return "" if value is None or value == "" or isinstance(value, bool) else str(value)


def _metavar(field: FieldInfo) -> str:
    # `int | None` is a whole number to the user.
    kinds = [k for k in get_args(field.annotation) if k is not type(None)] or [field.annotation]
    if (choices := choices_of(field)) is not None or get_origin(field.annotation) is Literal:
        return "|".join(str(k) for k in choices or kinds)
    for kind, name in ((Path, "FOLDER"), (int, "INTEGER"), (float, "NUMBER")):
        if kind in kinds or any(kind in get_args(k) for k in kinds):
            return name
    return "TEXT"


def recipe_flags(kind: str) -> list[click.Parameter]:
    """The flags of a training command, with the defaults of its presets, and `--set`."""
    fields = setting_fields(RECIPES[kind])
    flags: list[click.Parameter] = [
        setting_flag(flag, fields[key], default=_preset_default(kind, key, fields[key]))
        for flag, key in daily(kind).items()
    ]
    return [*flags, set_flag()]


def _preset_default(kind: str, key: str, field: FieldInfo) -> str | None:
    values = preset_values(kind, key)
    if len(presets(kind)) == 1 and values:
        return str(*values.values())
    different = {model: value for model, value in values.items() if value != field.default}
    if not different:
        return None
    others = ", ".join(f"{value} for {model}" for model, value in different.items())
    return f"{_default(field.default)}; {others}" if _default(field.default) else others


def set_flag(text: str = "Change any other setting of the recipe") -> click.Option:
    """`--set section.key=value`, any number of times."""
    return click.Option(
        ["--set", "changes"],
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help=f"{text}; may be repeated.",
    )


def model_flags(default: str) -> list[click.Parameter]:
    """`--model`, and `--set` for the settings of a model that have no flag.

    Args:
        default: The default that help shows for `--model`.
    """
    others = ", ".join(key for key in MODEL_KEYS if key != FLAGS["--model"])
    return [
        setting_flag("--model", ModelSection.model_fields["name"], default=default),
        set_flag(f"Change another setting of the model ({others})"),
    ]


def precision_flag() -> click.Option:
    """`--precision` of what computes without training."""
    text = "Precision to compute in; `auto` is bf16 or fp16 on a GPU, and on a CPU what is fastest."
    return setting_flag("--precision", TrainingSection.model_fields["precision"], text=text)


def given_model(model: str | None, changes: Sequence[str], vae: str | None = None) -> ModelSection:
    """The model settings given with `model_flags`, and with `--vae` where a command has it.

    Raises:
        ConfigError: All faults at once, each with its flag.
    """
    return build_model(flag_settings({"model": model, "vae": vae, "changes": changes}))


def check_words(text: str | Sequence[str], where: str, what: str = "The text") -> None:
    """Refuses text that cannot be shown or is absurdly long.

    Args:
        text: What was given.
        where: The flag or argument that it was given for.
        what: What it is, for the message.

    Raises:
        ConfigError: Saying what it must be.
    """
    try:
        check_text(text)
    except PydanticCustomError as error:
        raise ConfigError(f"{what} must be {error.message()}.", where=where, fix="Rewrite it.") from None


def flag_settings(values: Mapping[str, Any], flags: Mapping[str, str] = FLAGS) -> list[Setting]:
    """The settings that were given on the command line.

    Args:
        values: Click's parameters by name (`instance_dir`), and `changes` from `--set`.
        flags: The setting that each flag stands for.

    Raises:
        ConfigError: If one setting was given twice, or a `--set` is malformed.
    """
    settings = [
        Setting(key, value, flag if value is True else f"{flag} {cut(str(value))}")
        for flag, key in flags.items()
        if (value := values.get(flag.lstrip("-").replace("-", "_"))) is not None
    ]
    settings += [parse_set(change) for change in values.get("changes", ())]
    seen: dict[str, str] = {}
    for setting in settings:
        if setting.key in seen:
            raise ConfigError(
                f"{setting.key} is given twice.",
                where=f"{seen[setting.key]}, {setting.origin}",
                fix="Give it once.",
            )
        seen[setting.key] = setting.origin
    return settings
