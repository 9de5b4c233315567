"""The list of mutants that no test can catch is true to the code."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LISTED = yaml.safe_load(Path(__file__).with_name("equivalent.yaml").read_text(encoding="utf-8"))
FILES = [name for name in LISTED if name != "everywhere"]


def test_every_entry_has_a_reason() -> None:
    assert all(entry["why"] for entries in LISTED.values() for entry in entries)


@pytest.mark.parametrize("file", FILES)
def test_the_lines_that_are_listed_are_there(file: str) -> None:
    code = [line.strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    for entry in LISTED[file]:
        was = entry["was"].strip().split("\n")
        assert any(code[start : start + len(was)] == was for start in range(len(code))), entry["was"]
        assert entry["was"].strip() not in [now.strip() for now in entry["now"]]
