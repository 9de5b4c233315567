"""The GPU benchmark works; here with a tiny model, on any device."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import Case, measure, table
from benchmarks.pictures import draw_pictures


@pytest.mark.parametrize("kind", ["lora", "controlnet", "embedding"])
def test_a_case_is_measured(tmp_path: Path, tiny_models: dict[str, Path], kind: str) -> None:
    # Like the benchmark's own row, except for what needs a GPU.
    row = next(case for case in gpu.CASES if case.kind == kind and case.family == "sd1")
    case = Case(kind, "sd1", "fp32", row.changes)
    pictures = draw_pictures(tmp_path / "pictures", 32, 4, "a photo of <mycat>")
    found = measure(case, tiny_models["sd1"], pictures, tmp_path / "run", 3, "optimizer.name=adamw")
    assert found.failure == ""
    assert 0 < found.step < found.first
    assert f"| {found.step:.3f} | {found.first:.2f} |" in " ".join(table([found]).split())


def test_a_case_that_fails_is_told(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    found = measure(Case("lora", "sd1", "fp32"), tiny_models["sd1"], tmp_path / "none", tmp_path / "run", 2)
    assert found.failure.startswith("DataError: ")


def test_every_recipe_is_measured_on_both_models() -> None:
    assert {(case.kind, case.family) for case in gpu.CASES} == {
        (kind, family) for kind in gpu.LOADING for family in ("sd1", "sdxl")
    }
