"""Each package imports only packages from layers below its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import finetune

ROOT = Path(finetune.__file__).parent
# Outside the package; may import all of it.
OUTSIDE = {"storybook", "benchmarks", "tests"}
# From top to bottom; the packages of one layer do not import each other.
LAYERS = [
    OUTSIDE,
    {"__init__"},
    {"__main__"},
    {"cli"},
    {"ui"},
    {"watching"},
    {"recipes"},
    {"evaluation"},
    {"training", "export", "tools", "sampling", "captioning"},
    {"formats"},
    {"adapters", "data"},
    {"backbones"},
    {"diffusion", "kernels", "drawing"},
    {"config"},
    {"errors", "files", "kinds", "signals", "version"},
]
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def package(path: Path) -> str:
    """The layer's package (or top-level module) that a file belongs to."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and package of every import from finetune in a file, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            own, _, rest = name.partition(".")
            top = rest.partition(".")[0]
            if own in OUTSIDE:
                yield node.lineno, own
            elif own == "finetune":  # names of `finetune` itself are in the layer above all packages
                inside = (ROOT / top).is_dir() or (ROOT / f"{top}.py").exists()
                yield node.lineno, top if top and inside else "__init__"


def rank(name: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def test_every_package_has_a_layer() -> None:
    found = {package(path) for path in MODULES}
    assert found <= set().union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    own = package(path)
    for line, other in imported(path):
        assert other == own or rank(other) > rank(own), f"line {line}: {own} imports {other}"
