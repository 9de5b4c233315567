"""Keeps what the pages quote true: tables of settings and pieces of code are copied from the package.

```
python docs/update.py          # writes them anew into docs/*.md
python docs/update.py --check  # only tells which pages are out of date
```

A page marks a quoted piece with a comment, and what follows up to `<!-- end -->` is replaced:
`<!-- settings lora -->`, or `<!-- code finetune/training/trainer.py Trainer._step -->`.
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

from finetune.cli.flags import FLAGS
from finetune.recipes.base import sections, setting_fields
from finetune.recipes.load import RECIPES
from finetune.recipes.presets import preset_values

ROOT = Path(__file__).resolve().parent.parent
PIECE = re.compile(r"(<!-- (settings|code) (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def updated(page: str) -> str:
    """The text of a page with every marked piece made anew."""

    def piece(match: re.Match[str]) -> str:
        begin, kind, what, end = match.groups()
        return f"{begin}{settings(what) if kind == 'settings' else code(*what.split())}\n{end}"

    return PIECE.sub(piece, page)


def settings(kind: str) -> str:
    """A table of each section of a kind of recipe: key, flag, default and meaning."""
    flags = {key: flag for flag, key in FLAGS.items()}
    lines: list[str] = []
    for section in sections(RECIPES[kind]):
        lines += ["", f"**`{section}`**", "", "| Setting | Default | Meaning |", "|---|---|---|"]
        for key, field in setting_fields(RECIPES[kind]).items():
            if key.startswith(f"{section}."):
                flag = f" (`{flags[key]}`)" if key in flags else ""
                cells = (f"`{key}`{flag}", _defaults(kind, key, field), _meaning(field))
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _defaults(kind: str, key: str, field: FieldInfo) -> str:
    values = preset_values(kind, key)
    presets = [f"{_show(value)} for {model}" for model, value in values.items() if value != field.default]
    return "; ".join([_show(field.default), *presets])


def _show(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(_show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _meaning(field: FieldInfo) -> str:
    choices = [c for c in get_args(field.annotation) if isinstance(c, str)]
    for part in get_args(field.annotation):
        if get_origin(part) is Literal:
            choices += get_args(part)
    listed = f" One of {', '.join(f'`{c}`' for c in choices)}." if choices else ""
    return f"{field.description}{listed}"


def code(file: str, name: str) -> str:
    """The source of a function, method or class, in a fence."""
    text = (ROOT / file).read_text(encoding="utf-8")
    node: Any = ast.parse(text)
    for part in name.split("."):
        node = next(n for n in node.body if getattr(n, "name", None) == part)
    source = "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
    return f"```python\n{textwrap.dedent(source)}\n```"


def main() -> int:
    """Updates or checks all pages; 1 if a checked page is out of date."""
    parser = argparse.ArgumentParser(description="Keeps what the pages quote true.")
    parser.add_argument("--check", action="store_true", help="change nothing, only tell")
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
