"""Files of entries: whole or nothing, and nothing wrong is ever read from one."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from finetune.data.shards import Shard, Shards, shard_files, write_shard

ENTRIES = {hashlib.sha256(bytes([i])).digest(): random.Random(i).randbytes(40 + 7 * i) for i in range(9)}


def test_a_file_holds_its_entries(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "new", ENTRIES, "storybook")
    assert shard_files(tmp_path / "new") == [shard.path]
    again = Shard(shard.path)
    assert again.encoder == "storybook" and len(again) == 9
    assert {key: again.read(row) for row, key in enumerate(again.keys())} == ENTRIES
    assert load_file(shard.path)["rows"].tobytes() == b"".join(ENTRIES.values())  # as others read it


def test_the_same_entries_are_the_same_file(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a", ENTRIES, "")
    second = write_shard(tmp_path / "b", dict(ENTRIES), "")
    assert first.path.name == second.path.name
    assert first.path.read_bytes() == second.path.read_bytes()


def test_nothing_wrong_is_read_from_a_damaged_file(tmp_path: Path) -> None:
    path = write_shard(tmp_path, ENTRIES, "storybook").path
    data, draw = path.read_bytes(), random.Random(0)
    lost = 0
    for attempt in range(400):
        if attempt % 4 == 0:
            path.write_bytes(data[: draw.randrange(len(data))])
        elif attempt % 4 == 1:
            at = draw.randrange(len(data))
            path.write_bytes(data[:at] + draw.randbytes(draw.randrange(64)) + data[at:])
        else:
            at = draw.randrange(len(data))
            path.write_bytes(data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :])
        shards = Shards(tmp_path)
        for key, expected in ENTRIES.items():
            found = shards.read(key)
            assert found is None or found == expected
            lost += found is None
        for key in list(shards._places):  # also by what has become of a key
            assert shards.read(key) in (None, ENTRIES.get(key))
    assert lost > 900  # most of what is cut or pushed aside, and an entry or more of most flipped bits


def test_another_file_has_what_one_lost(tmp_path: Path) -> None:
    keys = list(ENTRIES)
    first = write_shard(tmp_path, ENTRIES, "")
    write_shard(tmp_path, {keys[8]: ENTRIES[keys[8]]}, "")
    first.path.write_bytes(first.path.read_bytes()[:-1] + b"\x00")  # the last of its rows
    shards = Shards(tmp_path)
    assert shards.read(keys[8]) == ENTRIES[keys[8]]
    assert shards.read(keys[7]) == ENTRIES[keys[7]]
    first.path.unlink()
    assert shards.read(keys[7]) is None and keys[7] not in shards
    assert shards.read(keys[8]) == ENTRIES[keys[8]]


def test_what_is_no_file_of_entries_is_left_alone(tmp_path: Path) -> None:
    for name in ("lora.safetensors", f"{'g' * 64}.safetensors", f".{'a' * 64}.safetensors.partial"):
        (tmp_path / name).write_bytes(b"")
    assert shard_files(tmp_path) == []
    with pytest.raises(ValueError, match="not a file of entries"):
        Shard(tmp_path / "lora.safetensors")
