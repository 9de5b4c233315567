"""Keeps the docs up to date: tables of settings and code excerpts are copied from the package.

```
python docs/update.py          # updates docs/*.md
python docs/update.py --check  # only reports which pages are out of date
```

A comment marks where a copy goes, and everything up to `<!-- end -->` is replaced:
`<!-- settings lora data adapter -->` (sections of a recipe, `sample` or `eval`), `<!-- presets lora -->`,
`<!-- code finetune/training/trainer.py Trainer._step -->`, or `<!-- programs of files -->`.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from finetune.cli.evaluation import FLAGS as EVALUATION_FLAGS
from finetune.cli.sample import FLAGS as SAMPLE_FLAGS
from finetune.config import Section
from finetune.config.choices import choices_of
from finetune.recipes.daily import FLAGS
from finetune.recipes.fields import entry_type, setting_fields
from finetune.recipes.load import RECIPES, EvaluatedSettings, Sampled
from finetune.recipes.presets import preset_values, presets
from finetune.tools.programs import FILES, PROGRAMS

ROOT = Path(__file__).resolve().parent.parent
OTHERS: dict[str, tuple[type[Section], dict[str, str]]] = {
    "sample": (Sampled, SAMPLE_FLAGS),
    "eval": (EvaluatedSettings, EVALUATION_FLAGS),
}
PIECE = re.compile(r"(<!-- (settings|presets|code|programs) (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def updated(page: str) -> str:
    """The text of a page with every marked piece replaced by a current copy."""

    def piece(match: re.Match[str]) -> str:
        begin, kind, what, end = match.groups()
        return f"{begin}{KINDS[kind](*what.split())}\n{end}"

    return PIECE.sub(piece, page)


def settings(kind: str, *names: str) -> str:
    """A table of each named section of a recipe, of `sample` or of `eval`: key, flag, default and meaning."""
    own, given = OTHERS.get(kind) or (RECIPES[kind], FLAGS)
    flags = {key: flag for flag, key in given.items()}
    fields = setting_fields(own)
    lines: list[str] = []
    for section in names:
        lines += ["", f"**`{section}`**", "", "| Setting | Default | Meaning |", "|---|---|---|"]
        for key, field in fields.items():
            if key.startswith(f"{section}.") and key not in getattr(own, "unused", ()):
                flag = f" (`{flags[key]}`)" if key in flags else ""
                lines.append(_row(f"`{key}`{flag}", _show(field.default), _meaning(field)))
        lines += _entries(fields, section)
    return "\n".join([*lines, ""])


def _entries(fields: dict[str, FieldInfo], section: str) -> list[str]:
    """A table for each setting of a section that is a list of sections."""
    lines: list[str] = []
    for key, field in fields.items():
        if key.startswith(f"{section}.") and (entry := entry_type(field)) is not None:
            lines += ["", f"**each entry of `{key}`**", ""]
            lines += ["| Setting | Default | Meaning |", "|---|---|---|"]
            for name, own in entry.model_fields.items():
                default = "(required)" if own.is_required() else _show(own.default)
                lines.append(_row(f"`{name}`", default, _meaning(own)))
    return lines


def defaults(kind: str) -> str:
    """A table of the recipe's defaults by model."""
    models = list(presets(kind))
    keys = [key for key in setting_fields(RECIPES[kind]) if preset_values(kind, key)]
    lines = ["", _row("Setting", *models), "|---" * (len(models) + 1) + "|"]
    for key in keys:
        values = preset_values(kind, key)
        lines.append(_row(f"`{key}`", *(_show(values[m]) if m in values else "" for m in models)))
    return "\n".join([*lines, ""])


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _show(value: Any) -> str:
    if value is None or value in ("", ()):
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(_show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _meaning(field: FieldInfo) -> str:
    choices = list(choices_of(field) or [c for c in get_args(field.annotation) if isinstance(c, str)])
    for part in get_args(field.annotation):
        if get_origin(part) is Literal:
            choices += get_args(part)
    listed = f" One of {', '.join(f'`{c}`' for c in choices)}." if choices else ""
    return f"{field.description}{listed}"


def code(file: str, name: str) -> str:
    """The source of a function, method or class, as a Markdown code block."""
    text = (ROOT / file).read_text(encoding="utf-8")
    node: Any = ast.parse(text)
    for part in name.split("."):
        node = next(n for n in node.body if getattr(n, "name", None) == part)
    source = "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
    return f"```python\n{textwrap.dedent(source)}\n```"


def programs(*_: str) -> str:
    """A table of kinds of files and the programs that load them."""
    lines = [_row("File", *PROGRAMS, "Notes"), "|---" * (len(PROGRAMS) + 2) + "|"]
    for loads in FILES.values():
        marks = ["✓" if program in loads.programs else "–" for program in PROGRAMS]
        lines.append(_row(loads.what, *marks, loads.note))
    return "\n".join(["", *lines, ""])


KINDS = {"settings": settings, "presets": defaults, "code": code, "programs": programs}


def main() -> int:
    """Updates or checks all pages; 1 if a checked page is out of date."""
    parser = argparse.ArgumentParser(description="Keeps the docs up to date.")
    parser.add_argument("--check", action="store_true", help="change nothing, only report")
    check: bool = parser.parse_args().check
    stale = 0
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := updated(text)) != text:
            stale += 1
            print(f"{'out of date' if check else 'updated'}: {page.relative_to(ROOT)}")
            if not check:
                page.write_text(new, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
