"""Found by content, whole on disk, bounded in memory."""

from __future__ import annotations

import hashlib
import re
import struct
import time
from pathlib import Path

import pytest
import torch

from finetune.config import DataSection
from finetune.data.cache import ContentCache, cache_of, content_key
from finetune.data.shards import shard_files
from finetune.errors import ConfigError
from finetune.files import partial_name
from tests.data.entries import entries


def test_keys_tell_their_parts_apart() -> None:
    cases = [("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""), ("ab", "ç")]
    keys = [content_key(*parts) for parts in cases]
    assert len(set(keys)) == 5
    assert all(len(key) == 64 for key in keys)


def test_a_key_is_what_it_always_was() -> None:
    # Caches on disk are found by it: SHA-256 of the parts, each behind its length in eight bytes.
    told = struct.pack("<Q2sQ2s", 2, b"ab", 2, "ç".encode())
    assert content_key("ab", "ç") == hashlib.sha256(told).hexdigest()


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_put_is_got(tmp_path: Path, on_disk: bool) -> None:
    cache = ContentCache(tmp_path / "new" / "cache" if on_disk else None)
    key = content_key("x")
    assert cache.get(key) is None
    batch = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    cache.put(key, {"mean": batch[1], "std": batch[2]})
    early = ContentCache(cache.directory)
    assert early.get(key) is None
    cache.flush()
    early.flush()  # learns what others wrote
    for reader in [cache, early, ContentCache(cache.directory)] if on_disk else [cache]:
        row = reader.get(key)
        assert row is not None and key in reader
        assert torch.equal(row["mean"], batch[1])
        assert torch.equal(row["std"], batch[2])
        assert row["mean"].untyped_storage().nbytes() == 3 * 2 * 2 * 4
    left = [p.parent for p in tmp_path.rglob("*") if p.is_file()]
    assert left == ([tmp_path / "new" / "cache"] if on_disk else [])


def test_nothing_stays_in_memory_when_there_is_a_directory(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    rows = {content_key(str(i)): torch.full((64,), float(i)) for i in range(600)}
    held = 0
    for key, row in rows.items():
        cache.put(key, {"x": row})
        cache.flush(if_due=True)
        held = max(held, len(cache._waiting))
    assert held == 255  # then a file is written
    cache.flush()
    assert len(shard_files(tmp_path)) == 3 and not cache._waiting
    for key, row in rows.items():
        found = cache.get(key)
        assert found is not None and torch.equal(found["x"], row)


def test_what_waits_for_long_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ContentCache(tmp_path)
    cache.put(content_key("x"), {"x": torch.ones(1)})
    cache.flush(if_due=True)
    assert not shard_files(tmp_path)
    later = time.monotonic() + 31
    monkeypatch.setattr(time, "monotonic", lambda: later)
    cache.flush(if_due=True)
    assert len(entries(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_is_the_users_to_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = ContentCache(tmp_path / "file" / "cache")
    cache.put(content_key("x"), {"x": torch.ones(1)})
    with pytest.raises(ConfigError, match="cannot be written"):
        cache.flush()


def test_the_settings_tell_where_the_cache_is(tmp_path: Path) -> None:
    assert cache_of(DataSection(cache=False, cache_dir=tmp_path), "latents") is None
    for folder, directory in ((None, None), (tmp_path, tmp_path / "latents")):
        cache = cache_of(DataSection(cache_dir=folder), "latents")
        assert cache is not None and cache.directory == directory


def test_what_a_killed_process_left_in_the_cache_is_removed(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "latents")
    cache.put(content_key("x"), {"x": torch.ones(1)})
    cache.flush()
    (kept,) = shard_files(tmp_path / "latents")
    own = partial_name(kept)
    # As by a process of this one's number that started at another time.
    left = own.with_name(re.sub(r"\d+(-\w+\.partial)$", r"1\1", own.name))
    for path in (own, left):
        path.touch()
    cache_of(DataSection(cache_dir=tmp_path), "latents")
    assert left != own and set(kept.parent.iterdir()) == {kept, own}
