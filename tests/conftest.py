"""Shared fixtures: tiny random models of each family, and pictures."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from tests.tiny import FAMILIES, Family, tiny_backbone_folder, tiny_inpainting_folder

if TYPE_CHECKING:
    from finetune.backbones import Backbone

for library in (diffusers_logging, transformers_logging):
    library.set_verbosity_error()
    library.disable_progress_bar()

# A shell starts background jobs with SIGINT ignored, and nohup all with SIGHUP, which child processes
# inherit; some tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts slow tests first, so that no worker begins a long one when the others have ended."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The diffusers folder of a tiny random model of each family; do not write to them."""
    folder = tmp_path_factory.mktemp("tiny")
    return {family: tiny_backbone_folder(family, folder) for family in FAMILIES}


@pytest.fixture(scope="session")
def inpainting_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """As `tiny_models`, the inpainting model of each family."""
    folder = tmp_path_factory.mktemp("inpainting")
    return {family: tiny_inpainting_folder(family, folder) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    """Runs the test once for each family."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def tiny_folder(family: Family, tiny_models: dict[str, Path]) -> Path:
    """The diffusers folder of the tiny model of `family`."""
    return tiny_models[family]


@pytest.fixture(scope="module")
def loaded(tiny_models: dict[str, Path]) -> dict[str, Backbone]:
    """One backbone of each family; do not change them."""
    from finetune.backbones import load_backbone
    from finetune.config import ModelSection

    return {family: load_backbone(ModelSection(name=str(path))) for family, path in tiny_models.items()}


@pytest.fixture
def backbone(tiny_folder: Path) -> Backbone:
    """A freshly loaded tiny backbone of `family`; the test may change it."""
    from finetune.backbones import load_backbone
    from finetune.config import ModelSection

    return load_backbone(ModelSection(name=str(tiny_folder)))


@pytest.fixture
def inpainting(family: Family, inpainting_models: dict[str, Path]) -> Backbone:
    """A freshly loaded tiny inpainting backbone of `family`; the test may change it."""
    from finetune.backbones import load_backbone
    from finetune.config import ModelSection

    return load_backbone(ModelSection(name=str(inpainting_models[family])))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory: default output folders go below it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `mycat` of three pictures and a broken one; do not write to it."""
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


def draw_pictures(place: Path) -> Path:
    """Makes the folder of pictures below `place`."""
    folder = place / "mycat"
    folder.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG no more")
    return folder
