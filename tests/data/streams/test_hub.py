"""Streams from a Hub on this machine, as Hugging Face's own client reads them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.streams.shards import held, write_shards
from tests.hub import commit_of, hub

NAME = "someone/shards"
SCRIPT = """
import hashlib, json, sys
from finetune.config import PairsSection
from finetune.data import scan_pairs
from finetune.data.read import Reader
from finetune.data.streams.stream import Block, Cursor

found = scan_pairs(PairsSection(dataset=sys.argv[1], streaming=True))
block = Block(found.stream, Reader(), 5, 0, 0, Cursor(1, 1, 2))
pictures = [[p.name, p.caption, p.digest] for p in block.folder().pictures]
addresses = [shard["content"] for shard in found.stream.shards]
print("SAID", json.dumps([found.revision, addresses, len(found.pictures), pictures]))
"""


@pytest.mark.slow
def test_shards_are_read_from_the_hub_and_not_kept(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "set")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    with hub(shards, NAME) as endpoint:
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, NAME]
        done = subprocess.run(
            command, env={**environment, "HF_ENDPOINT": endpoint}, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    (line,) = (one for one in done.stdout.splitlines() if one.startswith("SAID "))
    revision, addresses, first, pictures = json.loads(line.removeprefix("SAID "))
    assert revision == commit_of(shards)
    assert addresses == [f"hf://datasets/{NAME}@{revision}/0{n}.tar" for n in range(3)]
    assert first == 11
    inside = held(shards)
    for name, caption, digest in pictures:
        assert digest == hashlib.sha256(inside[name]).hexdigest()
        assert caption == inside[name.replace(".png", ".txt")].decode().strip()
    assert len(pictures) == 5 or pictures[-1][0].startswith("0")
    kept = [
        path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.stat().st_size > 10_000
    ]
    assert kept == []
