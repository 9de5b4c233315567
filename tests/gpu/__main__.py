"""`python -m tests.gpu`: tests and benchmarks for a GPU, in at most ten minutes; `make gpu` runs it.

The tests in this folder, then every recipe on full-size SD 1.5 and SDXL with random weights
(`benchmarks.gpu`). Without a GPU it says so and succeeds if all of it can be imported.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from finetune.cli.terminal import quiet_libraries

ROOT = Path(__file__).parents[2]
SECONDS = 570


def main() -> int:
    """Runs both parts and returns the exit code."""
    began = time.monotonic()
    quiet_libraries()
    for name in ("benchmarks.gpu", "tests.gpu.test_gpu", "tests.gpu.test_benchmark"):
        importlib.import_module(name)
    if not torch.cuda.is_available():
        print("PyTorch finds no NVIDIA GPU on this machine. The scripts can be imported; nothing was run.")
        return 0
    tests = _within(began, "pytest", "-q", "tests/gpu")
    # A case that has started is finished: leave time for the longest.
    left = max(0.0, SECONDS - (time.monotonic() - began) - 60)
    file = ROOT / "build" / "gpu.json"
    file.parent.mkdir(exist_ok=True)
    return _within(began, "benchmarks.gpu", "--budget", str(left), "--json", str(file)) or tests


def _within(began: float, *module: str) -> int:
    """Runs a module until it ends or time runs out; returns its exit code."""
    environment = {
        **os.environ,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }  # for deterministic sums in the tests that need them
    process = subprocess.Popen(
        [sys.executable, "-m", *module], cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        return process.wait(max(1.0, SECONDS - (time.monotonic() - began)))
    except subprocess.TimeoutExpired:
        print(f"{module[0]} was stopped: the {SECONDS} seconds were used up.")
        return 1
    finally:  # also what it started, such as the processes of two GPUs, and when this is interrupted
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
