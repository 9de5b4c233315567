"""What a cache folder holds, for tests."""

from __future__ import annotations

from pathlib import Path

from finetune.data.shards import Shard, shard_files


def entries(folder: Path) -> dict[bytes, bytes]:
    """The bytes of every intact entry in the folder of one kind, by key."""
    shards = [Shard(path) for path in shard_files(folder)]
    read = {key: shard.read(row) for shard in shards for row, key in enumerate(shard.keys())}
    return {key: data for key, data in read.items() if data is not None}
