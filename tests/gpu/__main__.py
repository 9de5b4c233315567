"""`python -m tests.gpu`: what can be shown on a GPU, in at most ten minutes; `make gpu` calls it.

The tests of this folder, then every recipe on SD 1.5 and SDXL of true size with random weights
(`benchmarks.gpu`). Without a GPU it says so and is content if all of it can be imported.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
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
        print("There is no NVIDIA GPU that PyTorch can use here. The scripts import; nothing else was done.")
        return 0
    python = [sys.executable, "-m"]
    tests = subprocess.run([*python, "pytest", "-q", "tests/gpu"], cwd=ROOT, check=False).returncode
    left = max(60.0, SECONDS - (time.monotonic() - began))
    # A case that has begun is finished: room for the longest.
    figures = [
        *python,
        "benchmarks.gpu",
        "--budget",
        str(left - 60),
        "--json",
        str(ROOT / "build" / "gpu.json"),
    ]
    (ROOT / "build").mkdir(exist_ok=True)
    measured = subprocess.run(figures, cwd=ROOT, check=False).returncode
    return tests or measured


if __name__ == "__main__":
    sys.exit(main())
