"""`finetune sample --prompts FILE`: a prompt a line, with settings as kohya's scripts have them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from finetune.cli.flags import check_words
from finetune.errors import ConfigError
from finetune.recipes.load import Setting

_OPTION = re.compile(r"\s--(\S+)")
_KEYS = {
    "n": "sampling.negative",
    "s": "sampling.steps",
    "l": "sampling.guidance",
    "d": "sampling.seed",
    "ss": "sampling.scheduler",
    "w": "sampling.size",
    "h": "sampling.size",
}


@dataclass(frozen=True)
class Line:
    """A prompt, and the settings that are given for it alone."""

    prompt: str
    settings: tuple[Setting, ...] = ()


def read_prompts(file: Path) -> list[Line]:
    """Reads a file of prompts; empty lines and those that begin with # are left out.

    Of kohya's options `--n` (negative prompt), `--s` (steps), `--l` (guidance scale), `--d` (seed), `--ss`
    (sampler, by its name here), `--w` and `--h` (pixels) are understood.

    Raises:
        ConfigError: It cannot be read, has no prompt, or lines have other options; all of these at once.
    """
    try:
        rows = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"The prompts cannot be read: {reason}.",
            where=f"--prompts {file}",
            fix="Give a text file with a prompt a line.",
        ) from None
    kept = [
        (n, row.strip()) for n, row in enumerate(rows, 1) if row.strip() and not row.strip().startswith("#")
    ]
    if not kept:
        raise ConfigError("There is no prompt in this file.", where=str(file), fix="Write one a line.")
    faults = [fault for n, row in kept if (fault := _fault(n, row))]
    if faults:
        raise ConfigError(
            " ".join(faults),
            where=str(file),
            fix=f"Use {', '.join(f'--{name}' for name in _KEYS)}, each once.",
        )
    return [_line(f"{file}, line {n}", row) for n, row in kept]


def _fault(number: int, row: str) -> str | None:
    names = [name.lower() for name in _OPTION.findall(row)]
    wrong = [f"--{name}" for name in names if name not in _KEYS or names.count(name) > 1]
    if row.startswith("--"):
        return f"Line {number} has no prompt."
    return f"Line {number} has {', '.join(dict.fromkeys(wrong))}." if wrong else None


def _line(where: str, row: str) -> Line:
    prompt, *rest = _OPTION.split(row)
    check_words(prompt, where, "A prompt")
    given = {name.lower(): value.strip() for name, value in zip(rest[::2], rest[1::2], strict=True)}
    width, height = given.pop("w", None), given.pop("h", None)
    if width or height:
        given["w"] = f"{width or height}x{height or width}"
    return Line(
        prompt.strip(), tuple(Setting(_KEYS[n], value, f"{where}: --{n}") for n, value in given.items())
    )
