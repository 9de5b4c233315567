"""Names that lead to no model are refused with a fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.backbones import load_backbone
from finetune.config import ModelSection
from finetune.errors import ModelError


def load(name: str | Path, **settings: object) -> None:
    load_backbone(ModelSection.model_validate({"name": str(name), **settings}))


@pytest.mark.parametrize("name", ["nothing-here", "./no/such/folder", "no/such.safetensors", ""])
def test_a_name_that_means_nothing(name: str) -> None:
    with pytest.raises(ModelError, match="There is no model") as caught:
        load(name)
    assert "storybook, sd15, sd21, sdxl" in str(caught.value.fix)


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match="not a checkpoint"):
        load(tmp_path / "notes.txt")


def test_an_installation_without_the_bundled_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("finetune.backbones.resolve.storybook_folder", lambda: tmp_path / "none")
    with pytest.raises(ModelError, match="missing from this installation"):
        load("storybook")
