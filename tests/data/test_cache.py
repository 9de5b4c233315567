"""Found by content, whole on disk, bounded in memory."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path

import pytest
import torch

from finetune.config import DataSection
from finetune.data.cache import ContentCache, cache_of, content_key
from finetune.errors import ConfigError
from finetune.files import partial_name


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
    for reader in [cache, ContentCache(cache.directory)] if on_disk else [cache]:
        row = reader.get(key)
        assert row is not None
        assert torch.equal(row["mean"], batch[1])
        assert torch.equal(row["std"], batch[2])
        assert row["mean"].untyped_storage().nbytes() == 3 * 2 * 2 * 4
    left = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert left == ([tmp_path / "new" / "cache" / key[:2] / f"{key}.safetensors"] if on_disk else [])


def test_a_damaged_file_counts_as_absent_and_is_replaced(tmp_path: Path) -> None:
    key, value = content_key("x"), {"mean": torch.ones(3)}
    ContentCache(tmp_path).put(key, value)
    (file,) = tmp_path.rglob("*.safetensors")
    for damage in (b"", file.read_bytes()[:-2], b"rubbish" * 50):
        file.write_bytes(damage)
        cache = ContentCache(tmp_path)
        assert cache.get(key) is None
        cache.put(key, value)
        assert ContentCache(tmp_path).get(key) is not None


def test_memory_is_bounded_when_there_is_a_directory(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path, room=100)
    for i in range(10):
        cache.put(content_key(str(i)), {"x": torch.full((10,), float(i))})
    assert len(cache._memory) == 2
    for i in range(10):
        row = cache.get(content_key(str(i)))
        assert row is not None
        assert row["x"].tolist() == [i] * 10


def test_a_folder_that_cannot_be_written_is_the_users_to_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        ContentCache(tmp_path / "file" / "cache").put(content_key("x"), {"x": torch.ones(1)})


def test_the_settings_tell_where_the_cache_is(tmp_path: Path) -> None:
    assert cache_of(DataSection(cache=False, cache_dir=tmp_path), "latents") is None
    for folder, directory in ((None, None), (tmp_path, tmp_path / "latents")):
        cache = cache_of(DataSection(cache_dir=folder), "latents")
        assert cache is not None and cache.directory == directory


def test_what_a_killed_process_left_in_the_cache_is_removed(tmp_path: Path) -> None:
    ContentCache(tmp_path / "latents").put(content_key("x"), {"x": torch.ones(1)})
    (kept,) = (tmp_path / "latents").rglob("*.safetensors")
    own = partial_name(kept)
    # As by a process of this one's number that started at another time.
    left = own.with_name(re.sub(r"\d+(-\w+\.partial)$", r"1\1", own.name))
    for path in (own, left):
        path.touch()
    cache_of(DataSection(cache_dir=tmp_path), "latents")
    assert left != own and set(kept.parent.iterdir()) == {kept, own}
