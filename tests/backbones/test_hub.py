"""Models from the Hub, without a network: from a cache as huggingface_hub lays it out, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from finetune.backbones import load_backbone
from finetune.config import ModelSection
from finetune.errors import ModelError
from tests.tiny import Family

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty Hub cache on a machine that is offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put(folder: Path, cache: Path) -> Path:
    """Lays `folder` into the cache as the repository `someone/tiny`."""
    repository = cache / "models--someone--tiny"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def test_a_cached_model_loads_offline(tiny_folder: Path, family: Family, cache: Path) -> None:
    put(tiny_folder, cache)
    backbone = load_backbone(ModelSection(name="someone/tiny"))
    assert backbone.family == family
    assert backbone.name == "someone/tiny"


def test_another_kind_is_refused_by_its_configuration(tiny_models: dict[str, Path], cache: Path) -> None:
    snapshot = put(tiny_models["sd1"], cache)
    config = json.loads((snapshot / "unet" / "config.json").read_text())
    (snapshot / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 8}))
    shutil.rmtree(snapshot / "vae")
    with pytest.raises(ModelError, match="editing"):
        load_backbone(ModelSection(name="someone/tiny"))


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_cache_is_told(tiny_models: dict[str, Path], cache: Path, content: str) -> None:
    (put(tiny_models["sd1"], cache) / "model_index.json").write_text(content)
    with pytest.raises(ModelError, match="cannot be read"):
        load_backbone(ModelSection(name="someone/tiny"))


@pytest.mark.parametrize("name", ["someone/missing", "sd15", "sd21", "sdxl"])
def test_offline_and_not_cached(name: str) -> None:
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        load_backbone(ModelSection(name=name))
    assert "storybook" in str(caught.value.fix)


def test_an_unknown_revision(tiny_models: dict[str, Path], cache: Path) -> None:
    put(tiny_models["sd1"], cache)
    with pytest.raises(ModelError):
        load_backbone(ModelSection(name="someone/tiny", revision="v9"))
