"""Errors say what, where and fix, in whole sentences."""

from __future__ import annotations

import ast
import errno
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import finetune
from finetune import errors
from finetune.errors import ConfigError, FinetuneError, OutOfMemory, PlaceError, UserError, of_the_system

ROOT = Path(finetune.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
KINDS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, UserError)
}  # fmt: skip


def texts(tree: ast.AST) -> Iterator[ast.expr]:
    """The message and the fix of every error that is raised."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            for text in (*node.args[:1], *(k.value for k in node.keywords if k.arg == "fix")):
                yield from (text.body, text.orelse) if isinstance(text, ast.IfExp) else (text,)


def written(text: ast.expr) -> str:
    """The text with formatted values as `…`; empty if it is built elsewhere."""
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    if not all(isinstance(part, ast.Constant | ast.FormattedValue) for part in parts):
        return ""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_errors_are_told_in_sentences(path: Path) -> None:
    for text in texts(ast.parse(path.read_text(encoding="utf-8"))):
        message = written(text)
        assert not re.match(r"[a-z]+ ", message), f"line {text.lineno} starts in lowercase: {message}"
        # Another library's message may come last.
        assert not message or message[-1] in ".?…", f"line {text.lineno} has no period: {message}"


def test_an_error_says_what_where_and_fix() -> None:
    error = ConfigError("It is too small.", where="adapter.rank", fix="Use 1 or more.")
    assert str(error) == "It is too small.\n  where: adapter.rank\n  fix:   Use 1 or more."
    assert str(ConfigError("It is too small.")) == "It is too small."
    assert "where: a\\nb.png\n" in str(ConfigError("It is odd.", where="a\nb.png", fix="Rename it."))
    assert error.exit_code == 2
    assert FinetuneError.exit_code == 1


def wrapped(cause: Exception) -> Exception:
    """What a library makes of `cause`."""
    try:
        try:
            raise cause
        except Exception as error:
            raise ImportError("a part of it cannot be loaded") from error
    except ImportError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        SystemError("error return without exception set"),
        wrapped(MemoryError()),
    ],
)
def test_too_little_memory_is_told_as_such(error: Exception) -> None:
    found = of_the_system(error)
    assert isinstance(found, OutOfMemory)
    assert "batch size" in str(found)


def test_what_the_system_refuses_is_told_with_its_place() -> None:
    found = of_the_system(OSError(errno.ENOSPC, "No space left on device", "runs/mycat"))
    assert isinstance(found, PlaceError)
    assert str(found).splitlines()[:2] == ["The disk is full.", "  where: runs/mycat"]
    assert of_the_system(ValueError("a fault of ours")) is None
