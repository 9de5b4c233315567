"""Whom a command talks to: a person, nobody, or a program.

`--quiet` and `--json` stand before the command and are the same for all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Literal

import click

from finetune.errors import ConfigError

Style = Literal["full", "quiet", "json"]
STYLES: dict[str, Style] = {"--quiet": "quiet", "--json": "json"}
"""The flags before a command that choose one."""

_chosen: Style = "full"


def choose_style(arguments: Sequence[str]) -> None:
    """Sets the style that the flags before the command ask for.

    Args:
        arguments: What follows `finetune`.

    Raises:
        ConfigError: If they ask for two.
    """
    global _chosen
    flags = takewhile(lambda argument: argument.startswith("-"), arguments)
    found = list(dict.fromkeys(STYLES[flag] for flag in flags if flag in STYLES))
    _chosen = "json" if "json" in found else found[0] if found else "full"
    if len(found) > 1:
        raise ConfigError("These exclude each other.", where=", ".join(STYLES), fix="Give one of them.")


def style() -> Style:
    """The style of this command."""
    return _chosen


def for_programs() -> bool:
    """Whether a program reads the output."""
    return _chosen == "json"


def json_flag(text: str) -> click.Option:
    """`--json` of a command whose answer is one JSON object; given before the command it means the same.

    Args:
        text: Help.
    """
    return click.Option(["--json", "as_json"], is_flag=True, default=for_programs, help=text)


def event(name: str, **facts: Any) -> None:
    """Writes one event for programs: a JSON object on a line of stdout.

    Args:
        name: What happened.
        facts: More about it; what JSON cannot say of them, as NaN, is null.
    """
    print(as_json({"event": name, **facts}), flush=True)


def as_json(value: Any) -> str:
    """One line of JSON; numbers that are not finite are null, paths are text."""
    return json.dumps(_finite(value), default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
