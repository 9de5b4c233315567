"""Mutated recipes: each is refused with a message that says where, or is valid."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import yaml

from finetune.config.choices import choices_of
from finetune.errors import ConfigError
from finetune.recipes import RECIPES
from finetune.recipes.fields import setting_fields
from finetune.recipes.load import load_recipe
from tests.campaigns.campaign import Campaign, Verdict, time_limit
from tests.campaigns.child import finetune
from tests.campaigns.runs import NAMES, Runs

RECIPE_FILES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
SECONDS = 5
LONGEST = 15_000
"""Most characters in a message: about twenty errors of a few lines each."""
MEMORY = 500_000_000
_KEYS = sorted({key for kind in RECIPES.values() for key in setting_fields(kind)})
_VALUES = (
    "null", "true", "~", "-1", "0", "1e400", ".nan", ".inf", "-.inf", "9" * 40, "9" * 4000, "9" * 6000,
    "0x1F",
    "0o17", "1_000", "12:30:45", "2024-13-45", "2024-01-01", "!!int abc", "!!float x", "!!set {a, b}",
    "!!binary aGk=", "!!python/object:os.system x", "!!omap [a: 1]", "[]", "{}", "[[[]]]", "{a: {b: {c: 1}}}",
    '"\\0"', '"\\e[2J"', '"\\ud800"', '"🐱"', "é" * 300, "x" * 5000, "'x" + " y" * 9000 + "'",
    "../../etc", "/", ".", "''", "|\n    text\n    more", "&a [*a]", "*none", "<<", "? x",
    "- - -", "@", "`", "%", "\t", "#", "=",
)  # fmt: skip
Mutation = Callable[[str, random.Random], str]


def other_value(text: str, draw: random.Random) -> str:
    """Another value for a setting."""
    lines = text.splitlines()
    places = [n for n, line in enumerate(lines) if ": " in line and not line.lstrip().startswith("#")]
    place = draw.choice(places)
    lines[place] = f"{lines[place].partition(': ')[0]}: {draw.choice(_VALUES)}"
    return "\n".join(lines)


def other_key(text: str, draw: random.Random) -> str:
    """One more setting, known or not, which may repeat a section."""
    section, _, name = draw.choice(_KEYS).partition(".")
    name = draw.choice((name, name[1:], name + "x", name.upper(), "kind", "1", "null", "[a]", '"\\0"'))
    return f"{text}\n{section}: {{{name}: {draw.choice(_VALUES)}}}\n"


def other_bytes(text: str, draw: random.Random) -> str:
    """Characters changed, lost or inserted."""
    letters = list(text)
    for _ in range(draw.randrange(1, 6)):
        place = draw.randrange(len(letters))
        odd = draw.choice("\0\x01\x1b\x7f\x85\u2028\ufeff\t:{}[]&*!|>%@`'\"#-?,~é🐱0")
        letters[place] = draw.choice((odd, letters[place] + odd, "", odd * 50))
    return "".join(letters)


def other_lines(text: str, draw: random.Random) -> str:
    """Lines lost, duplicated, indented or cut off."""
    lines = text.splitlines()
    place, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    match draw.randrange(4):
        case 0:
            del lines[place]
        case 1:
            lines.insert(other, lines[place])
        case 2:
            lines[place] = " " * draw.randrange(1, 9) + lines[place]
        case _:
            lines = lines[:place]
    return "\n".join(lines)


def deep(text: str, draw: random.Random) -> str:
    """Nesting, aliases that multiply, and merges."""
    depth = draw.choice((10, 100, 1000, 5000))
    odd = draw.choice((
        "x: " + "[" * depth, "x: " + "[" * depth + "]" * depth, "x: " + "{a: " * depth, "- " * depth,
        "a: &a [x, x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n > 1 else '*a'] * 9)}]"
                                     for n in range(1, 12)),
        "a: &a {<<: *a}", "a: &a {b: 1}\ntraining: {<<: [*a, *a]}",
    ))  # fmt: skip
    return draw.choice((f"{text}\n{odd}", odd, f"kind: lora\n{odd}", f"kind: {odd[3:]}"))


def large(text: str, draw: random.Random) -> str:
    """More of something than anybody would write."""
    count = draw.choice((1_000, 20_000, 200_000))
    return text + draw.choice((
        "\npreview:\n  prompts:\n" + "  - a\n" * count, "\npreview: {prompts: [" + "a, " * count + "]}",
        "\noptimizer:\n" + "".join(f"  k{n}: {n}\n" for n in range(count // 4)),
        "\nadapter: {" + "x" * count + ": 1}", "\noutput: {name: " + "x" * count + "}",
        "\npreview: {negative: '" + "x\n\n" * count + "'}", "\n#" + "x" * count, "\n# x" * count,
    ))  # fmt: skip


MUTATIONS: tuple[Mutation, ...] = (other_value, other_key, other_bytes, other_lines, deep, large)


def likely(kind: str, text: str, draw: random.Random) -> str:
    """Plausible settings, each valid by itself."""
    content = yaml.safe_load(text)
    values = {
        key: list(choices_of(field) or _values(field.annotation))
        for key, field in setting_fields(RECIPES[kind]).items()
    }
    fields = {key: some for key, some in values.items() if some}
    for key in draw.sample(sorted(fields), draw.randrange(1, 9)):
        section, _, name = key.partition(".")
        content.setdefault(section, {})[name] = draw.choice(fields[key])
    return yaml.safe_dump(content)


def _values(annotation: Any) -> list[Any]:
    """Some values of a type; none where they would name a file or a model."""
    if annotation is bool:
        return [True, False]
    if annotation in (int, float):
        return [annotation(value) for value in (1, 2, 8)] + [0.05] * (annotation is float)
    if annotation is NoneType:
        return [None]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) is tuple:
        return [list(pair) for pair in zip(*(_values(part) for part in get_args(annotation)), strict=True)]
    if annotation == list[str]:
        return [["a cat"], ["attn2.to_q", "a cat on snow"], []]
    parts = [part for part in get_args(annotation) if get_origin(annotation) in (Union, UnionType, Annotated)]
    return [value for part in parts for value in _values(part)]


class Attacks(Campaign):
    """Each attack mutates a shipped recipe; every tenth one is for a tiny model and is run."""

    name: ClassVar[str] = "recipes"
    small: ClassVar[int] = 60
    large: ClassVar[int] = 1500

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._runs = Runs(place)

    def attack(self, number: int) -> Verdict:
        """Mutates a recipe one or more times and loads it; every tenth is for a tiny model and is run."""
        draw = random.Random(number)
        run = number % 10 == 9
        kind = draw.choice(NAMES)
        source = self._runs.recipe(kind) if run else draw.choice(RECIPE_FILES)
        mutation = partial(likely, kind) if run else draw.choice(MUTATIONS)
        text = source.read_text(encoding="utf-8")
        for _ in range(1 if run else draw.choice((1, 1, 2, 4))):
            if text.strip():
                text = mutation(text, draw)
        file = self.place / "mutated.yaml"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        sort = ((likely if run else mutation).__doc__ or "").rstrip(".").lower()
        memory = _peak()
        try:
            with time_limit(SECONDS):
                load_recipe(file)
        except ConfigError as error:
            message = str(error)
            if "where:" not in message or len(message) > LONGEST:
                return Verdict(sort, f"the message does not say where, or is too long: {message[:500]}")
            if _peak() - memory > MEMORY:
                return Verdict(sort, f"{_peak() - memory:,} bytes of memory for {text[:300]!r}")
            return Verdict(sort)
        except BaseException as error:
            return Verdict(sort, f"{type(error).__name__}: {error} in {text[:300]!r}")
        return self._carry_out(number, file, sort) if run else Verdict(sort)

    def _carry_out(self, number: int, file: Path, sort: str) -> Verdict:
        folder = self.place / f"recipe-{number}"
        folder.mkdir()
        brief = ["--set", "training.steps=1", "--set", "preview.every=0"]
        ended = finetune("run", file, *brief, folder=folder, limit=60)
        failure = ended.unexpected(0, 2)
        sort = f"{sort}, {'trained' if ended.code == 0 else 'refused by the run'}"
        return Verdict(sort, f"{failure} with {file.read_text(encoding='utf-8')}" if failure else None)


def _peak() -> int:
    """Peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
