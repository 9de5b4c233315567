"""Two processes with half the batch each are one process with the whole (P1)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.data.conftest import painted
from tests.data.streams.shards import write_shards
from tests.training import processes

TIME_LIMIT = 180  # seconds; a deadlock, not slowness, is what comes near it


def launch(count: int, *arguments: Path) -> None:
    """Runs `processes.py` in `count` processes, with the environment that torchrun would give them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
                   "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}  # fmt: skip
    command = [sys.executable, "-m", processes.__name__, *map(str, arguments)]
    started = [
        subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        errors = [process.communicate(timeout=TIME_LIMIT)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, error in zip(started, errors, strict=True):
        assert process.returncode == 0, error


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> tuple[Path, Path]:
    """What one process left, and what two left."""
    one, two, pictures = (tmp_path_factory.mktemp(name) for name in ("one", "two", "pictures"))
    for index, size in enumerate([(80, 32), (32, 32), (32, 48), (36, 32), (33, 32), (32, 80), (32, 50)]):
        painted(*size, index).save(pictures / f"{index}.png")
    shards = write_shards(tmp_path_factory.mktemp("stream") / "shards", 7, 3)
    launch(2, two, tiny_models["sdxl"], pictures, shards)
    processes.main(one, tiny_models["sdxl"], pictures, shards)
    return one, two


@pytest.mark.parametrize("case", ["small", "lora", "interrupted"])
def test_both_processes_end_where_one_would(folders: tuple[Path, Path], case: str) -> None:
    one, two = folders
    alone = load_file(one / f"{case}-0.safetensors")
    for rank in range(2):
        trained = load_file(two / f"{case}-{rank}.safetensors")
        assert trained.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(trained[name], value, rtol=0, atol=5e-6, msg=name)


def test_both_read_the_same_stream(folders: tuple[Path, Path]) -> None:
    one, two = folders
    alone, trained = (load_file(folder / "stream-0.safetensors") for folder in (one, two))
    assert trained.keys() == alone.keys()
    for name, value in alone.items():
        # Products with other numbers of rows are summed in another order; the values are up to 0.3.
        torch.testing.assert_close(trained[name], value, rtol=0, atol=5e-5, msg=name)
    lines = [(folder / "stream" / "stream.jsonl").read_text() for folder in (one, two)]
    # The last block begins with a sample of the second process, and the first one writes.
    assert lines[0].startswith(lines[1]) and lines[1].count("\n") == lines[0].count("\n") - 1 == 6


def test_encoding_is_shared_out(folders: tuple[Path, Path]) -> None:
    shares = [load_file(folders[1] / f"encoded-{rank}.safetensors") for rank in range(2)]
    # Chunks of two and then one, in turn: each process has its share, and all rows.
    assert shares[0]["count"].tolist() == [1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0]
    assert shares[1]["count"].tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1]
    for share in shares:
        assert share["rows"].tolist() == [[float(thing)] * 3 for thing in range(11)]


def test_the_lora_learned_all_but_what_has_no_gradient(folders: tuple[Path, Path]) -> None:
    learned = load_file(folders[1] / "lora-0.safetensors")
    still = {name for name, value in learned.items() if "lora_B" in name and not value.any()}
    assert any(name.startswith("text_encoder.") and name not in still for name in learned)
    assert all("text_model.encoder.layers.2." in name or name.startswith("unet.") for name in still)


@pytest.mark.parametrize(("case", "steps"), [("small", 4), ("lora", 3), ("interrupted", 6)])
def test_only_the_first_process_writes(folders: tuple[Path, Path], case: str, steps: int) -> None:
    assert not (folders[1] / "1").exists()
    run, alone = (f / case if case == "interrupted" else f / "0" / case for f in folders)
    names = [{str(path.relative_to(f)) for path in f.rglob("*") if "tfevents" not in path.name}
             for f in (run, alone)]  # fmt: skip
    assert names[0] == names[1]
    rows, expected = ([json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()]
                      for f in (run, alone))  # fmt: skip
    every = [row["step"] for row in expected]
    assert [row["step"] for row in rows] == every == sorted(set(every))
    assert every[-1] == steps
    for key in ("loss", "grad_norm", "lr"):
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in expected], rel=1e-4)
