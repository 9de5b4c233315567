"""What a run folder holds, and what is removed from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import PlaceError
from finetune.training import RunFolder


def steps(folder: RunFolder) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in folder.checkpoints()]


@pytest.mark.parametrize("keep", range(1, 8))
def test_the_newest_checkpoints_are_kept_as_many_as_asked(keep: int, tmp_path: Path) -> None:
    folder, written = RunFolder(tmp_path), list[int]()
    folder.prune(keep, every=2)  # there are none yet
    for step in range(2, 14, 2):
        folder.checkpoint(step).mkdir(parents=True)
        folder.prune(keep, every=2)
        written.append(step)
        assert steps(folder) == written[-keep:]


@pytest.mark.parametrize(("keep", "left"), [(1, [7]), (2, [6, 7]), (3, [4, 6, 7]), (9, [2, 4, 6, 7])])
def test_what_an_interruption_wrote_goes_when_there_is_a_newer_one(
    keep: int, left: list[int], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    for step in (2, 3, 4, 6, 7):
        folder.checkpoint(step).mkdir(parents=True)
    folder.prune(keep, every=2)
    assert steps(folder) == left


def test_only_whole_checkpoints_count_and_the_latest_is_of_the_last_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.latest() is None
    for step in (999_999, 1_000_000, 20):
        folder.checkpoint(step).mkdir(parents=True)
    assert folder.checkpoint(20) == tmp_path / "checkpoints" / "step-000020"
    for name in ("step-2000000.damaged", ".step-2000000.partial", "step-new"):
        (tmp_path / "checkpoints" / name).mkdir()
    (tmp_path / "checkpoints" / "step-3000000").touch()
    assert steps(folder) == [20, 999_999, 1_000_000]
    assert folder.latest() == folder.checkpoint(1_000_000)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        *((name, "a folder where the run needs a file") for name in ("recipe.yaml", "pictures.jsonl")),
        *((name, "a file where the run needs a folder") for name in ("checkpoints", "samples", "logs")),
        ("metrics.jsonl", "a folder where the run needs a file"),
    ],
)
def test_something_of_the_wrong_kind_is_in_the_way(name: str, told: str, tmp_path: Path) -> None:
    folder, path = RunFolder(tmp_path), tmp_path / name
    folder.check()
    path.mkdir() if "folder where" in told else path.touch()
    with pytest.raises(PlaceError, match=told) as caught:
        folder.check()
    assert caught.value.where == str(path)
