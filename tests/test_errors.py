"""Errors are told as what, where and mend, in whole sentences."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import finetune
from finetune import errors
from finetune.errors import ConfigError, FinetuneError, UserError

ROOT = Path(finetune.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
KINDS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, UserError)
}  # fmt: skip


def texts(tree: ast.AST) -> Iterator[ast.expr]:
    """What is wrong, and how to mend it, of every error that is made."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            for text in (*node.args[:1], *(k.value for k in node.keywords if k.arg == "mend")):
                yield from (text.body, text.orelse) if isinstance(text, ast.IfExp) else (text,)


def written(text: ast.expr) -> str:
    """The text with its values as `…`; empty where it is made elsewhere."""
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    if not all(isinstance(part, ast.Constant | ast.FormattedValue) for part in parts):
        return ""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_errors_are_told_in_sentences(path: Path) -> None:
    for text in texts(ast.parse(path.read_text(encoding="utf-8"))):
        told = written(text)
        assert not re.match(r"[a-z]+ ", told), f"line {text.lineno} begins small: {told}"
        # What another library said may come last.
        assert not told or told[-1] in ".?…", f"line {text.lineno} has no full stop: {told}"


def test_an_error_says_what_where_and_mend() -> None:
    error = ConfigError("It is too small.", where="adapter.rank", mend="Use 1 or more.")
    assert str(error) == "It is too small.\n  where: adapter.rank\n  mend:  Use 1 or more."
    assert str(ConfigError("It is too small.")) == "It is too small."
    assert error.exit_code == 2
    assert FinetuneError.exit_code == 1
