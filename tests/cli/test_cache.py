"""`finetune cache`, after a run that left one."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.data.shards import shard_files

Output = pytest.CaptureFixture[str]


@pytest.mark.usefixtures("here")
def test_a_run_fills_a_cache_that_can_be_looked_after(
    tiny_models: dict[str, Path], pictures: Path, capsys: Output
) -> None:
    model = str(tiny_models["sd1"])
    small = ["--model", model, "--steps", "1", "--rank", "2", "--set", "preview.every=0"]
    train = ["lora", "--instance-dir", str(pictures), *small]
    assert main([*train, "--set", "data.cache_dir=cache"]) == 0
    assert "latents: 0 of 3 from the cache" in capsys.readouterr().out
    assert main([*train, "--set", "data.cache_dir=cache"]) == 0
    said = capsys.readouterr().out
    assert "latents: 3 of 3 from the cache" in said and "captions: 1 of 1 from the cache" in said

    for path in ("cache", "runs/mycat-lora", "runs/mycat-lora/recipe.yaml"):
        assert main(["cache", "show", path]) == 0
        head, facts, latents, texts, every = capsys.readouterr().out.splitlines()
        assert head.split() == ["kind", "entries", "size", "last", "used", "made", "by"]
        assert facts.split()[:2] == ["facts", "4"]  # the broken picture too
        assert latents.split()[:2] == ["latents", "3"] and texts.split()[:2] == ["texts", "1"]
        assert model in latents and every.startswith("all ")

    assert main(["cache", "verify", "cache"]) == 0
    assert capsys.readouterr().out == "Intact entries in cache: 8.\n"
    (latents,) = shard_files(Path("cache/latents"))
    latents.write_bytes(latents.read_bytes()[:-1])
    assert main(["cache", "verify", "cache"]) == 0
    told, left = capsys.readouterr().out.splitlines()
    assert latents.name in told and left == "Intact entries in cache: 5."

    gc.collect()  # the runs were in this process
    assert main(["cache", "prune", "cache", "--max-size", "0B"]) == 0
    assert "Removed 1 file (" in capsys.readouterr().out
    assert main([*train, "--set", "data.cache_dir=cache"]) == 0
    assert "latents: 0 of 3 from the cache" in capsys.readouterr().out
    assert main([*train]) == 0
    assert "from the cache" not in capsys.readouterr().out
    assert main(["cache", "show", "runs/mycat-lora-4"]) == 2
    assert "in memory only" in capsys.readouterr().err
