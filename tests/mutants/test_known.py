"""The list of mutants that no test can catch is true to the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.mutants.known import EVERYWHERE, LIST, Entry, Known, entries

ROOT = Path(__file__).parents[2]
LISTED = list(entries())


def test_the_list_is_read_in_full() -> None:
    marks = re.findall(r"^[-+] ", LIST.read_text(encoding="utf-8"), re.MULTILINE)
    assert sum(1 + len(entry.now) for entry in LISTED) == len(marks)
    assert all(entry.reason and entry.was and entry.now for entry in LISTED)


@pytest.mark.parametrize(
    "entry", [e for e in LISTED if e.file != EVERYWHERE], ids=lambda entry: entry.was[:40]
)
def test_the_lines_that_are_listed_are_there(entry: Entry) -> None:
    code = " ".join(line.strip() for line in (ROOT / entry.file).read_text(encoding="utf-8").splitlines())
    assert entry.was in code
    assert entry.was not in entry.now


@pytest.mark.parametrize(
    ("was", "now", "known"),
    [
        ('say("one two three")', 'say("ONE TWO THREE")', True),
        ('draw("offset noise")', 'draw("OFFSET NOISE")', False),
        ("zeros(3, device=x.device)", "zeros(3, device=None)", True),
        ("zeros(3, device=x.device)", "zeros(3, )", True),
        ("zeros(3, device=x.device)", "zeros(4, device=x.device)", False),
        ("zeros(3, device=x.device)", "zeros(4, device=None)", False),
        ('x.to("cpu", dtype)', "x.to(None, dtype)", True),
        ('x.to("cpu", dtype)', 'x.to("cpu", None)', False),
        ('open("a", encoding="utf-8")', 'open("a", encoding=None)', True),
        ('open("a", encoding="utf-8")', 'open("a", )', True),
        ('open("a", encoding="utf-8")', 'open("A", encoding="utf-8")', False),
    ],
)
def test_kinds_of_changes(was: str, now: str, known: bool) -> None:
    assert Known().has("finetune/anything.py", was, now) is known
