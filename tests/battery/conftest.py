"""Each row of the table, on every family, is trained once; the tests share what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from finetune.recipes.run import Run
from tests.battery.cases import CASES, Case, Trained, put_together
from tests.tiny import FAMILIES, Family

Assemble = Callable[..., Run]


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="session")
def case(request: pytest.FixtureRequest) -> Case:
    """Runs the test once for each row of the table."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=FAMILIES, scope="session")
def family(request: pytest.FixtureRequest) -> Family:
    """As the one for all tests, but a test's neighbors have the same, to share what was trained."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def trained(
    case: Case,
    family: Family,
    tiny_models: dict[str, Path],
    pictures: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Trained]:
    """The case's finished run; a test that changes it puts it back."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)  # class pictures go below it
        this = Trained.of(put_together(case, tiny_models[family], pictures, place / "run", *case.shared))
    yield this
    state = this.run.adapter.state()
    assert all(torch.equal(state[name], value) for name, value in this.after.items())


@pytest.fixture
def made(case: Case, tiny_folder: Path, pictures: Path, here: Path) -> Assemble:
    """Puts the case's run together, in a folder of its own for each name; class pictures go beside it."""
    return lambda name="run", *changes: put_together(
        case, tiny_folder, pictures, here / name, *case.shared, *changes
    )
