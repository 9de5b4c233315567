"""What is encoded, and how often: each thing once, whatever else happens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from finetune.config import DataSection
from finetune.data import PictureSource, scan_folder
from finetune.data.cache import ContentCache
from finetune.data.encoded import Encoded, chunked
from finetune.data.shards import Shard, shard_files
from tests.data import kills
from tests.data.conftest import painted
from tests.data.entries import entries
from tests.data.test_source import assert_same, source
from tests.tiny import only

if TYPE_CHECKING:
    from finetune.backbones import Backbone

Counted = Callable[..., tuple[int, int]]


@pytest.fixture
def counted(mycat: Path, backbone: Backbone, tmp_path: Path) -> Counted:
    """Prepares with a cache on disk; how many pictures and captions the encoders were given."""
    given = {"pictures": 0, "captions": 0}
    encode_pixels, encode_text = backbone.encode_pixels, backbone.encode_text

    def pixels(rows: Tensor) -> tuple[Tensor, Tensor]:
        given["pictures"] += len(rows)
        return encode_pixels(rows)

    def text(tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        given["captions"] += len(tokens)
        return encode_text(tokens)

    backbone.encode_pixels, backbone.encode_text = pixels, text  # type: ignore[method-assign,assignment]

    def count(**settings: Any) -> tuple[int, int]:
        given.update(pictures=0, captions=0)
        made = source(mycat, backbone, cache_dir=tmp_path / "cache", **settings)
        result = given["pictures"], given["captions"]
        fresh = source(mycat, backbone, **settings)
        assert_same(only(made.batches(range(10))), only(fresh.batches(range(10))), exactly=False)
        return result

    return count


@pytest.mark.parametrize("family", ["sd1"])
def test_exactly_what_changed_is_made_again(mycat: Path, backbone: Backbone, counted: Counted) -> None:
    assert counted() == (5, 3)
    assert counted() == (0, 0)
    (mycat / "0.png").rename(mycat / "renamed.png")
    assert counted() == (0, 0)
    painted(33, 64, 77).save(mycat / "4.png")  # other content under an old name
    assert counted() == (1, 0)
    (mycat / "1.txt").write_text("a green cat")
    assert counted() == (0, 1)
    (mycat / "2.txt").write_text("a green cat")  # a caption that is known, for another picture
    assert counted() == (0, 0)
    (mycat / "copy.png").write_bytes((mycat / "3.png").read_bytes())
    assert counted() == (0, 0)
    assert counted(resolution=64) == (6 - 1, 0)  # of two that are equal, one
    assert counted(flip=True, resolution=64) == (5, 0)
    assert counted(caption_dropout=0.1) == (0, 1)
    with torch.no_grad():
        next(backbone.vae.parameters()).add_(0.1)
    assert counted() == (5, 0)
    with torch.no_grad():
        next(backbone.text_encoders[0].parameters()).add_(0.1)
    assert counted() == (0, 3)


@pytest.mark.parametrize("family", ["sd1"])
def test_the_user_is_told_how_much_was_found(mycat: Path, backbone: Backbone, tmp_path: Path) -> None:
    assert source(mycat, backbone).found() == []
    source(mycat, backbone, cache_dir=tmp_path)
    painted(33, 64, 77).save(mycat / "4.png")
    (mycat / "1.txt").write_text("a green cat")
    made = source(mycat, backbone, cache_dir=tmp_path)
    assert made.found() == ["latents: 4 of 5 from the cache", "captions: 2 of 3 from the cache"]
    heard: list[tuple[int, int]] = []
    made = PictureSource(scan_folder(mycat), backbone, DataSection(cache_dir=tmp_path, buckets=False), 0)
    made.prepare(lambda *at: heard.append(at))
    assert heard == [(5, 8), (8, 8)]


@pytest.mark.parametrize("family", ["sd1"])
def test_a_preparation_cut_short_goes_on_to_the_same_bytes(
    mycat: Path, backbone: Backbone, tmp_path: Path
) -> None:
    whole = source(mycat, backbone, cache_dir=tmp_path / "whole")
    source(mycat, backbone, cache_dir=tmp_path / "part")
    (latents,) = shard_files(tmp_path / "part" / "latents")
    latents.unlink()
    part = source(mycat, backbone, cache_dir=tmp_path / "part")
    assert_same(only(whole.batches(range(5))), only(part.batches(range(5))))
    for file in (tmp_path / "whole").rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "part" / file.relative_to(tmp_path / "whole")).read_bytes()


def test_rows_are_not_read_to_be_prepared(tmp_path: Path) -> None:
    kills.filler(tmp_path, []).prepare(chunked(kills.THINGS, 3))
    for path in shard_files(tmp_path):  # damaged, but nobody looks yet
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    again = list[int]()
    encoded = kills.filler(tmp_path, again)
    encoded.prepare(chunked(kills.THINGS, 3))
    assert again == [] and encoded.found == (400, 400)
    assert all(torch.equal(r["x"], kills.row(i)["x"]) for i, r in enumerate(encoded.rows(kills.THINGS)))
    assert len(again) == len(shard_files(tmp_path)) == 2


def test_two_that_fill_one_folder_take_what_the_other_has_made(tmp_path: Path) -> None:
    mine, others = list[int](), list[int]()
    slow, fast = kills.filler(tmp_path, mine), kills.filler(tmp_path, others)
    fast.prepare(chunked(kills.THINGS[1:300], 3))
    slow.prepare(chunked(kills.THINGS, 3))
    # At first it knows of nothing; it learns with the first file that it writes.
    assert mine == [*kills.THINGS[:258], *kills.THINGS[300:]]
    assert len(entries(tmp_path)) == 400
    assert sum(len(Shard(path)) for path in shard_files(tmp_path)) == 400  # none is there twice


def test_kills_and_two_at_once_leave_what_is_right(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", kills.__name__, str(tmp_path)],
        env=environment, cwd=root, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for place in (tmp_path / "latents").iterdir():
        assert len(entries(place)) == 400
        assert all(Shard(path).read(0) for path in shard_files(place))  # none is damaged


def test_without_a_directory_everything_stays_in_memory() -> None:
    cache = ContentCache()
    encoded = Encoded(lambda things: [kills.row(t) for t in things], str, cache)
    encoded.prepare([[1, 2, 1]])
    assert set(cache._memory) == {"1", "2"} and encoded.found is None


@pytest.mark.parametrize("family", ["sd1"])
def test_latents_are_cached_by_what_they_were_computed_in(counted: Counted, backbone: Backbone) -> None:
    assert counted() == (5, 3)
    backbone.vae_dtype = torch.bfloat16
    assert counted() == (5, 0)
    assert counted() == (0, 0)
    backbone.vae_dtype = torch.float32
    assert counted() == (0, 0)
