"""What `--controlnet PATH:PICTURE[:SCALE[:START-END]][:KIND]` means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from finetune.config import ControlKind
from finetune.errors import ConfigError
from finetune.recipes.faults import cut
from finetune.sampling.specs import ControlSpec

FORM = "PATH:PICTURE[:SCALE[:START-END]][:KIND]"
KINDS: tuple[ControlKind, ...] = tuple(kind for kind in get_args(ControlKind) if kind != "none")
"""How a control picture can be made from the one that is given."""

_FIX = f"Write --controlnet {FORM}, e.g. runs/pairs-controlnet:sketch.png:0.8."


def parse_controlnet(text: str) -> tuple[ControlSpec, Path]:
    """Reads what `--controlnet` was given: the ControlNet, and its control picture.

    A drive or a name may hold colons too, so the ControlNet, a folder or a file, and the picture are those
    that exist.

    Raises:
        ConfigError: If there is no way to read it or more than one, or a number is out of range.
    """
    where = f"--controlnet {cut(text)}"
    readings = _readings(text)
    fitting = [(folder, picture, how) for folder, picture, tail in readings if (how := _how(tail))]
    if len(fitting) > 1:
        pairs = " or ".join(f"{picture!r} for {folder!r}" for folder, picture, _ in fitting[:2])
        fix = "Rename one, so that only one way to read it is left."
        raise ConfigError(f"This could mean the picture {pairs}.", where=where, fix=fix)
    if not fitting:
        tail = _joined(readings[0][2]) if readings else ""
        what = f"{cut(tail)!r} is not SCALE[:START-END][:KIND]." if readings else _missing(text)
        raise ConfigError(what, where=where, fix=_FIX)
    folder, picture, how = fitting[0]
    return ControlSpec(Path(folder), *how), Path(picture)


def _readings(text: str) -> list[tuple[str, str, list[str]]]:
    """Each way to cut at colons that begins with an existing folder and picture, and what follows them."""
    parts = text.split(":")
    folders = [(_joined(parts[:n]), n) for n in range(1, len(parts)) if _is_controlnet(parts[:n])]
    cuts = [(folder, n, end) for folder, n in folders for end in range(n + 1, len(parts) + 1)]
    found = ((folder, _joined(parts[n:end]), parts[end:]) for folder, n, end in cuts)
    return [reading for reading in found if os.path.isfile(os.path.expanduser(reading[1]))]


def _is_controlnet(parts: Sequence[str]) -> bool:
    path = os.path.expanduser(_joined(parts))
    return os.path.isdir(path) or (path.endswith(".safetensors") and os.path.isfile(path))


def _joined(parts: Sequence[str]) -> str:
    return ":".join(parts)


def _how(tail: Sequence[str]) -> tuple[float, float, float, ControlKind] | None:
    """Scale, start, end and kind from what follows the picture; None if it does not have that form."""
    kind: ControlKind = next((kind for kind in KINDS if tail and tail[-1] == kind), "none")
    if kind != "none":
        tail = tail[:-1]
    scale, window, *more = [*tail, *("1", "0-1")[len(tail) :]]
    start, _, end = window.partition("-")
    try:
        return None if more else (float(scale), float(start), float(end), kind)
    except ValueError:
        return None


def _missing(text: str) -> str:
    parts = text.split(":")
    known = [n for n in range(1, len(parts) + 1) if _is_controlnet(parts[:n])]
    if not known:
        return "There is no such ControlNet."
    given = parts[known[-1] :]
    # What reads as numbers at the end is not part of the picture's name.
    picture = _joined(given[: next(n for n in range(len(given) + 1) if _how(given[n:]))])
    return f"There is no picture {cut(picture)!r}." if picture else "The control picture is missing."
