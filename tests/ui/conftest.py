"""Folders that a page may look into."""

from __future__ import annotations

from pathlib import Path

import pytest

import finetune
from finetune.ui.roots import Roots
from tests.conftest import draw_pictures
from tests.watching.conftest import finished, own

__all__ = ["finished", "own"]


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roots:
    """The working directory, in which there is a folder of pictures."""
    monkeypatch.chdir(tmp_path)
    # Its processes run the code under test.
    monkeypatch.setenv("PYTHONPATH", str(Path(finetune.__file__).parent.parent))
    draw_pictures(tmp_path)
    return Roots.of()
