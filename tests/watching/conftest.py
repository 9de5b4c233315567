"""One finished run on a tiny model, for all tests of what is read from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from finetune.recipes import build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import run
from tests.conftest import draw_pictures

CHANGES = ("adapter.rank=2", "training.steps=4", "training.log_every=1", "training.checkpoint_every=2",
           "training.batch_size=2", "preview.every=2", "preview.steps=2",
           'preview.prompts=["a <cat> & a \\"hat\\"", "mycat"]')  # fmt: skip


@pytest.fixture(scope="session")
def finished(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, its pictures beside it; do not write to it."""
    place = tmp_path_factory.mktemp("watched")
    settings = {
        "data.instance_dir": draw_pictures(place),
        "model.name": str(tiny_models["sd1"]),
        "output.dir": place / "mine",
    }
    given = [Setting(key, value, key) for key, value in settings.items()]
    return run(build("lora", [*given, *map(parse_set, CHANGES)]), tell=lambda line: None).folder


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run to change, in `runs/` of the working directory's place."""
    return shutil.copytree(finished, tmp_path / "runs" / "mine")
