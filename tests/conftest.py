"""Shared fixtures: tiny random models of each family, and pictures."""

from __future__ import annotations

import copy
import gc
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.families import FAMILIES, Family

if TYPE_CHECKING:
    from finetune.backbones import Backbone

# A shell starts background jobs with SIGINT ignored, and nohup all with SIGHUP, which child processes
# inherit; some tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts slow tests first, so that no worker begins a long one when the others have ended."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Quiets the libraries; not where pytest-xdist only hands out the tests, which needs none of them."""
    if isinstance(collector, pytest.Session):
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        for library in (diffusers_logging, transformers_logging):
            library.set_verbosity_error()
            library.disable_progress_bar()


def pytest_collection_finish() -> None:
    """Garbage collection leaves out what the libraries hold, and comes less often: an eighth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The diffusers folder of a tiny random model of each family; do not write to them."""
    from tests.tiny import tiny_backbone_folder

    folder = tmp_path_factory.mktemp("tiny")
    return {family: tiny_backbone_folder(family, folder) for family in FAMILIES}


@pytest.fixture(scope="session")
def inpainting_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """As `tiny_models`, the inpainting model of each family."""
    from tests.tiny import tiny_inpainting_folder

    folder = tmp_path_factory.mktemp("inpainting")
    return {family: tiny_inpainting_folder(family, folder) for family in FAMILIES}


@pytest.fixture(scope="session")
def vision_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a tiny random model of each way to be asked about a picture; do not write to them."""
    from tests.captioning.models import MODELS

    place = tmp_path_factory.mktemp("vision")
    return {name: make(place / name) for name, make in MODELS.items()}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    """Runs the test once for each family."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def tiny_folder(family: Family, tiny_models: dict[str, Path]) -> Path:
    """The diffusers folder of the tiny model of `family`."""
    return tiny_models[family]


def load(models: dict[str, Path]) -> dict[str, Backbone]:
    """A backbone of each."""
    from finetune.backbones import load_backbone
    from finetune.config import ModelSection

    return {family: load_backbone(ModelSection(name=str(path))) for family, path in models.items()}


def content(backbone: Backbone) -> tuple[object, ...]:
    """What a test could leave changed."""
    parts = (backbone.unet, backbone.vae, *backbone.text_encoders)
    training = {module.training for part in parts for module in part.modules()}
    learning = {parameter.requires_grad for part in parts for parameter in part.parameters()}
    scheduler = backbone.scheduler
    return backbone.fingerprint(), type(scheduler), dict(scheduler.config), training, learning


def untouched(backbones: dict[str, Backbone]) -> Iterator[dict[str, Backbone]]:
    """Gives the backbones out and asserts that they come back as they were."""
    before = {family: content(backbone) for family, backbone in backbones.items()}
    yield backbones
    for family, backbone in backbones.items():
        assert content(backbone) == before[family], f"a test has changed the {family} model of all tests"


@pytest.fixture(scope="session")
def loaded(tiny_models: dict[str, Path]) -> Iterator[dict[str, Backbone]]:
    """One backbone of each family; do not change them."""
    yield from untouched(load(tiny_models))


@pytest.fixture(scope="session")
def loaded_inpainting(inpainting_models: dict[str, Path]) -> Iterator[dict[str, Backbone]]:
    """One inpainting backbone of each family; do not change them."""
    yield from untouched(load(inpainting_models))


@pytest.fixture
def backbone(family: Family, loaded: dict[str, Backbone]) -> Backbone:
    """A tiny backbone of `family` that the test may change: copying is faster than loading."""
    return copy.deepcopy(loaded[family])


@pytest.fixture
def inpainting(family: Family, loaded_inpainting: dict[str, Backbone]) -> Backbone:
    """A tiny inpainting backbone of `family` that the test may change."""
    return copy.deepcopy(loaded_inpainting[family])


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
