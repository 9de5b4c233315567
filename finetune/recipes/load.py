"""From YAML files, flags and `--set` to a validated recipe.

Every value is kept with the place it was given in, so that a fault can name it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from finetune.config import ModelSection, Section
from finetune.config.base import Fault
from finetune.config.evaluation import EvaluationSection
from finetune.errors import ConfigError
from finetune.recipes.base import Recipe
from finetune.recipes.controlnet import ControlNetRecipe
from finetune.recipes.distill import DistillRecipe
from finetune.recipes.dreambooth import DreamBoothRecipe
from finetune.recipes.embedding import EmbeddingRecipe
from finetune.recipes.faults import cut, nearest, raise_faults, read_validation_error, show, unknown_key
from finetune.recipes.fields import sections, setting_fields
from finetune.recipes.full import FullRecipe
from finetune.recipes.lora import LoRARecipe
from finetune.recipes.plain_yaml import parse_with_lines, parse_yaml
from finetune.recipes.pretrain import PretrainRecipe
from finetune.sampling.sampled import SampledSection

RECIPES: dict[str, type[Recipe]] = {
    "lora": LoRARecipe,
    "dreambooth": DreamBoothRecipe,
    "full": FullRecipe,
    "controlnet": ControlNetRecipe,
    "embedding": EmbeddingRecipe,
    "distill": DistillRecipe,
    "pretrain": PretrainRecipe,
}
Sections = TypeVar("Sections", bound=Section)

LARGEST = 1_000_000
"""Maximum size of a recipe's file in bytes; a complete one has about 4,000."""


@dataclass(frozen=True)
class Setting:
    """One value that the user gave.

    Attributes:
        key: Dotted key, e.g. "optimizer.lr".
        value: The value as given; text is read as the type of the setting.
        origin: Where it was given, e.g. "--lr" or "mycat.yaml, line 7: optimizer.lr".
    """

    key: str
    value: Any
    origin: str


def read_recipe_file(path: Path) -> tuple[str, list[Setting]]:
    """Reads a recipe's YAML file.

    Returns:
        The kind of recipe, and the settings in the file.

    Raises:
        ConfigError: If the file is missing, not YAML, or has no known kind.
    """
    return read_recipe_text(_text(path), str(path))


def read_recipe_text(text: str, where: str) -> tuple[str, list[Setting]]:
    """As `read_recipe_file`, the file's text being at hand.

    Args:
        text: YAML.
        where: What it is called in messages.

    Raises:
        ConfigError: If it is not YAML, or has no known kind.
    """
    content, lines = parse_with_lines(text, where)
    kinds = ", ".join(RECIPES)
    if not isinstance(content, dict):
        raise ConfigError(
            "This file is not a recipe.", where=where, fix=f"Start it with `kind:` and one of {kinds}."
        )
    kind = content.pop("kind", None)
    if not isinstance(kind, str) or kind not in RECIPES:
        what = "The recipe has no `kind`." if kind is None else f"{show(kind)} is not a kind of recipe."
        near = nearest(str(kind), RECIPES)
        fix = f"Write `kind: {near}`." if near else f"Write `kind:` and one of {kinds}."
        raise ConfigError(what, where=f"{where}: kind", fix=fix)
    return str(kind), list(_settings(content, lines, where))


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            reason = "it is not a file"  # reading a pipe would wait forever
        elif path.exists() and path.stat().st_size > LARGEST:
            reason = f"it is larger than {LARGEST:,} bytes"
        else:
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        reason = "it is not text"
    except OSError as error:
        reason = str(error.strerror)
    except ValueError:
        reason = "a path cannot contain NUL characters"
    raise ConfigError(
        f"The recipe cannot be read: {reason}.",
        where=str(path),
        fix="Give the path of a recipe's YAML file.",
    )


def _settings(content: dict[Any, Any], lines: Mapping[str, int], where: str) -> Iterator[Setting]:
    def origin(key: str) -> str:
        line = f", line {lines[key]}" if key in lines else ""  # a key that is not text has no line
        return f"{where}{line}: {cut(key)}"

    for section, values in content.items():
        if not isinstance(values, dict):
            yield Setting(str(section), values, origin(str(section)))
            continue
        for name, value in values.items():
            key = f"{section}.{name}"
            yield Setting(key, value, origin(key))


def parse_set(text: str) -> Setting:
    """Reads `section.key=value`, the value as YAML.

    Raises:
        ConfigError: If it does not have this form.
    """
    key, equals, value = text.partition("=")
    where = f"--set {cut(text)}"
    if not equals or not key.strip():
        raise ConfigError(f"{show(text)} sets nothing.", where=where, fix="Write --set section.key=value.")
    return Setting(key.strip(), parse_yaml(value, where), where)


def build(kind: str, settings: Iterable[Setting]) -> Recipe:
    """Makes and checks a recipe; a later setting overrides an earlier one.

    Only what was given counts as set; presets can fill in the rest (`with_preset`).

    Args:
        kind: A name in `RECIPES`.
        settings: What the user gave, e.g. a file's settings followed by flags.

    Raises:
        ConfigError: All faults at once, each with its place and the fix.
    """
    return _checked(RECIPES[kind], settings)


def find_faults(kind: str, settings: Iterable[Setting]) -> list[Fault]:
    """What `build` would refuse; each fault has the dotted key of its setting.

    Args:
        kind: A name in `RECIPES`.
        settings: What the user gave; a later one overrides an earlier one.
    """
    return _tried(RECIPES[kind], {setting.key: setting for setting in settings})[1]


class _UsedModel(Section):
    model: ModelSection = ModelSection()

    def faults(self) -> Iterator[Fault]:
        """Rounded weights, which these commands would compare or write."""
        yield from self.model.unrounded("This command needs the model's weights as they are.")


MODEL_KEYS = [key for key in setting_fields(_UsedModel) if key != "model.quantize"]


def build_model(settings: Iterable[Setting]) -> ModelSection:
    """The model as given to a command that has no recipe; only what was given counts as set.

    Raises:
        ConfigError: All faults at once, as in `build`.
    """
    return _checked(_UsedModel, settings).model


class Sampled(_UsedModel):
    """The settings of `finetune sample`."""

    sampling: SampledSection = SampledSection()

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from self.sampling.faults()


SAMPLING_KEYS = list(setting_fields(Sampled))


def build_sampling(settings: Iterable[Setting]) -> tuple[ModelSection, SampledSection]:
    """The model and the settings given to `finetune sample`; only what was given counts as set.

    Raises:
        ConfigError: All faults at once, as in `build`.
    """
    made = _checked(Sampled, settings)
    return made.model, made.sampling


class EvaluatedSettings(_UsedModel):
    """The settings of `finetune eval`."""

    evaluation: EvaluationSection = EvaluationSection()


EVALUATION_KEYS = list(setting_fields(EvaluatedSettings))


def build_evaluation(settings: Iterable[Setting]) -> tuple[ModelSection, EvaluationSection]:
    """The model and the settings given to `finetune eval`; only what was given counts as set.

    Raises:
        ConfigError: All faults at once, as in `build`.
    """
    made = _checked(EvaluatedSettings, settings)
    return made.model, made.evaluation


def _checked(kind: type[Sections], settings: Iterable[Setting]) -> Sections:
    given = {setting.key: setting for setting in settings}
    made, faults = _tried(kind, given)
    raise_faults(faults, {key: setting.origin for key, setting in given.items()})
    assert made is not None
    return made


def _tried(kind: type[Sections], given: Mapping[str, Setting]) -> tuple[Sections | None, list[Fault]]:
    fields = setting_fields(kind)
    names = sections(kind)
    faults = [unknown_key(key, list(fields)) for key in given if key not in fields and key not in names]
    try:
        made = kind.model_validate(_nested(given, fields, names))
    except ValidationError as error:
        return None, faults + read_validation_error(error, fields)
    return made, [*faults, *made.faults()]


def _nested(given: Mapping[str, Setting], fields: Container[str], names: Container[str]) -> dict[str, Any]:
    values: dict[str, Any] = {key: setting.value for key, setting in given.items() if key in names}
    for key, setting in given.items():
        section, _, name = key.partition(".")
        if key in fields and isinstance(values.setdefault(section, {}), dict):
            values[section] = {**values[section], name: setting.value}
    return values


def load_recipe(path: str | Path, *changes: str) -> Recipe:
    """Reads a recipe from its YAML file.

    Args:
        path: The file.
        changes: `section.key=value`, as after `--set`.

    Raises:
        ConfigError: If the file or a change is not valid.
    """
    kind, settings = read_recipe_file(Path(path))
    return build(kind, [*settings, *(parse_set(change) for change in changes)])
