"""Facts on disk: two runs at once, kills, damage."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from finetune.data.cache import content_key
from finetune.data.facts import Facts, FactsIndex

KEYS = [content_key(str(i)) for i in range(300)]


def fact(number: int) -> Facts:
    return Facts(number + 1, 7, number % 2 == 0, (f"note {number}", "größer…"), "a fault" * (number % 3))


def filled(folder: Path) -> None:
    index = FactsIndex(folder)
    for number, key in enumerate(KEYS):
        index.put(key, fact(number))


def test_facts_are_as_they_were_put(tmp_path: Path) -> None:
    assert FactsIndex(tmp_path / "facts").get(KEYS[0]) is None
    filled(tmp_path / "facts")
    index = FactsIndex(tmp_path / "facts")
    assert [index.get(key) for key in KEYS] == [fact(number) for number in range(300)]
    index.put(KEYS[0], fact(8))  # the last one counts
    assert index.get(KEYS[0]) == fact(8) == FactsIndex(tmp_path / "facts").get(KEYS[0])


def test_two_runs_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=filled, args=(tmp_path,)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    index = FactsIndex(tmp_path)
    assert [index.get(key) for key in KEYS] == [fact(number) for number in range(300)]
    lines = [line for file in tmp_path.iterdir() for line in file.read_text().split("\n") if line]
    assert len(lines) == 600


def test_a_cut_or_a_changed_byte_loses_at_most_its_line(tmp_path: Path) -> None:
    key = KEYS[0]
    other = key[:2] + KEYS[1][2:]
    index = FactsIndex(tmp_path)
    index.put(key, fact(0))
    index.put(other, fact(1))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    second = whole.index(other.encode())
    for place in range(0, len(whole), 7):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
            file.write_bytes(damaged)
            index = FactsIndex(tmp_path)
            first_alone = place >= second - 1
            assert index.get(key) in ((fact(0),) if first_alone else (fact(0), None))
            assert index.get(other) in (fact(1), None)
    file.write_bytes(whole[: second + 80])  # killed within the second line
    index = FactsIndex(tmp_path)
    assert (index.get(key), index.get(other)) == (fact(0), None)
    index.put(other, fact(1))
    index = FactsIndex(tmp_path)
    assert (index.get(key), index.get(other)) == (fact(0), fact(1))


@pytest.mark.parametrize("content", [b"", b"\xff\x00" * 500, b"\n" * 99])
def test_junk_is_the_same_as_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{KEYS[0][:2]}.txt").write_bytes(content)
    assert FactsIndex(tmp_path).get(KEYS[0]) is None
