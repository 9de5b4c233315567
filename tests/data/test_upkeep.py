"""Looking after a cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.data.facts import Facts, FactsIndex
from finetune.data.shards import Shard, Shards, shard_files, write_shard
from finetune.data.upkeep import holdings, prune, verify
from finetune.errors import ConfigError
from tests.data.entries import entries
from tests.data.test_shards import ENTRIES

KEYS = list(ENTRIES)


def part(folder: Path, first: int, last: int, used: float) -> Path:
    path = write_shard(folder, {key: ENTRIES[key] for key in KEYS[first:last]}, f"model {first}").path
    os.utime(path, (used, used))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of latents and texts, and some of another kind."""
    part(tmp_path / "latents", 0, 4, 300.0)
    part(tmp_path / "latents", 4, 6, 100.0)
    part(tmp_path / "texts", 6, 9, 200.0)
    (tmp_path / "facts").mkdir()
    (tmp_path / "facts" / "other.txt").write_text("12345")
    return tmp_path


def test_holdings_are_counted_by_kind(folder: Path) -> None:
    facts, latents, texts = holdings(folder)
    assert (facts.kind, facts.entries, facts.size) == ("facts", 0, 5)
    assert (latents.kind, latents.entries, latents.used) == ("latents", 6, 300.0)
    assert latents.size == sum(path.stat().st_size for path in (folder / "latents").iterdir())
    assert latents.encoders == ("model 0", "model 4")
    assert (texts.kind, texts.entries, texts.used) == ("texts", 3, 200.0)


def test_damaged_facts_are_named_and_removed_and_the_rest_stays(folder: Path) -> None:
    index, keys = FactsIndex(folder / "facts"), [f"ab{number:02}" for number in range(4)]
    for number, key in enumerate([*keys, *keys[:2]]):  # the last one of each counts
        index.put(key, Facts(number, 7))
    file = folder / "facts" / "ab.txt"
    assert verify(folder) == []
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"width": 3', b'"width": 8') + b"\nab99 half a l\xff")
    assert verify(folder) == ["facts/ab.txt: 2 of 5 entries damaged, removed"]
    found = FactsIndex(folder / "facts")
    assert [found.get(key) for key in keys] == [Facts(4, 7), Facts(5, 7), Facts(2, 7), None]
    assert next(holding.entries for holding in holdings(folder) if holding.kind == "facts") == 3
    assert verify(folder) == []
    found.put(keys[3], Facts(9, 7))  # a line of its own, after what is left
    assert FactsIndex(folder / "facts").get(keys[3]) == Facts(9, 7)


def test_damage_is_named_and_removed_and_the_rest_stays(folder: Path) -> None:
    assert verify(folder) == []
    first, second = sorted(shard_files(folder / "latents"), key=lambda path: -path.stat().st_size)
    (texts,) = shard_files(folder / "texts")
    first.write_bytes(first.read_bytes()[:-1] + b"\x00")
    texts.write_bytes(texts.read_bytes()[:-1])
    (other := folder / "latents" / "lora.safetensors").write_bytes(b"somebody else's")
    assert verify(folder) == [
        f"latents/{first.name}: 1 of 4 entries damaged, removed",
        f"texts/{texts.name}: damaged as a whole, removed",
    ]
    assert entries(folder / "latents") == {key: ENTRIES[key] for key in [*KEYS[:3], *KEYS[4:6]]}
    assert second.exists() and other.exists() and not first.exists() and not texts.exists()
    assert verify(folder) == []


def test_what_was_used_least_recently_goes_first(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert prune(folder, size).files == 0
    done = prune(folder, size - 1)
    assert (done.files, done.left) == (1, size - done.size)
    assert set(entries(folder / "latents")) == set(KEYS[:4])
    Shards(folder / "texts").mark_used([KEYS[7], b"no key"])
    assert prune(folder, done.left - 1).files == 1
    assert not entries(folder / "latents") and len(entries(folder / "texts")) == 3
    assert prune(folder, 0).left == 5  # what it does not know stays


def test_a_cache_in_use_is_not_pruned(folder: Path) -> None:
    root = Path(__file__).parents[2]
    code = (
        "import sys; from pathlib import Path; from finetune.data.shards import Shards\n"
        "held = Shards(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.read()"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "texts")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    with run:
        assert run.stdout and run.stdout.readline() == b"ready\n"
        with pytest.raises(ConfigError, match="A run is using this cache"):
            prune(folder, 0)
        run.kill()
    assert prune(folder, 0).files == 3


def test_another_folder_is_refused(tmp_path: Path) -> None:
    for folder, words in ((tmp_path, "not a cache folder"), (tmp_path / "none", "no such folder")):
        for command in (holdings, verify, lambda folder: prune(folder, 0)):
            with pytest.raises(ConfigError, match=words):
                command(folder)


def test_a_file_that_vanishes_is_as_if_it_were_not_there(folder: Path) -> None:
    shards = Shards(folder / "latents")
    prune_like = shard_files(folder / "latents")
    for path in prune_like:
        path.unlink()
    assert all(shards.read(key) is None for key in KEYS)
    with pytest.raises(ValueError, match="No such file"):
        Shard(prune_like[0])
