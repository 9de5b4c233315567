"""The pictures that the benchmark of data makes are as many as it says, and no two are alike."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.data import made, write_shards
from finetune.data import scan_folder


def test_a_folder_has_as_many_different_pictures_and_captions(tmp_path: Path) -> None:
    found = scan_folder(made(tmp_path, "folder", 130))
    assert len(found.pictures) == len({p.digest for p in found.pictures}) == 130
    assert [p.caption for p in found.pictures] == [f"scene {number}" for number in range(130)]
    assert not found.skipped


def test_shards_hold_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.data._A_SHARD", 50)
    write_shards(tmp_path, 130)
    members: list[str] = []
    for shard in sorted(tmp_path.iterdir()):
        with tarfile.open(shard) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                if member.name.endswith(".jpg"):
                    assert Image.open(content).size == (128, 128)
                members.append(member.name)
    assert members == [f"{number:06}.{suffix}" for number in range(130) for suffix in ("jpg", "txt")]
