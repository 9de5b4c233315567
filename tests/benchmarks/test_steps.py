"""Revisions of this program are measured in trees of their own."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from benchmarks import steps
from benchmarks.measure import ROOT, ours, run


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository with two revisions, tagged `old` and `new`, in place of this one."""
    root = tmp_path / "repository"
    root.mkdir()
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    for tag in ("old", "new"):
        (root / "file").write_text(tag, encoding="utf-8")
        for command in (("add", "file"), (*identity, "commit", "--quiet", "--message", tag), ("tag", tag)):
            subprocess.run(["git", *command], cwd=root, check=True)
    monkeypatch.setattr(steps, "ROOT", root)
    return root


def test_each_revision_has_its_own_files(repository: Path) -> None:
    (repository / "file").write_text("changed", encoding="utf-8")
    with steps.trees("old", "new") as found:
        assert {name: (tree / "file").read_text() for name, tree in found.items()} == {
            "old": "old",
            "new": "new",
        }
        places = list(found.values())
    assert not any(place.exists() for place in places)
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True
    )
    assert len(listed.stdout.splitlines()) == 1


def test_the_working_tree_is_the_other_one_by_default(repository: Path) -> None:
    (repository / "file").write_text("changed", encoding="utf-8")
    with steps.trees("old", None) as found:
        (_, one), (name, other) = found.items()
        assert ((one / "file").read_text(), (other / "file").read_text()) == ("old", "changed")
        assert name.endswith("-dirty)")


def test_a_revision_can_be_compared_with_itself(repository: Path) -> None:
    with steps.trees("old", "old") as found:
        assert list(found) == ["old", "old again"]


@pytest.mark.usefixtures("repository")
def test_an_unknown_revision_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["steps", "none"])
    with pytest.raises(SystemExit) as stopped:
        steps.main()
    assert stopped.value.code == 2
    assert "invalid reference: none" in capsys.readouterr().err


@pytest.mark.slow
def test_the_hook_measures_two_steps_of_the_bundled_model(tmp_path: Path) -> None:
    found = run(ours(ROOT, *shlex.split(steps.COMMAND)), 2, tmp_path / "run.log")
    assert found.failure == ""
    assert len(found.steps) == 1
    assert 0.2 < found.memory < 4
