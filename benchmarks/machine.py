"""The machine that figures were measured on: what it is, and whether anything else was running."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import psutil
import torch

from benchmarks.hook import seconds_elsewhere

QUIET = 0.15
"""A machine is quiet if others keep no more cores busy: they slow a step by far more than their share."""

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "bitsandbytes")
_FAST_BF16 = ("amx_bf16", "avx512_bf16")


def describe() -> dict[str, str]:
    """Processor, memory, GPU, libraries and date, each as words."""
    told = {"CPU": _cpu(), "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB"}
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        told["GPU"] = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return told | {"libraries": libraries(Path(sys.executable)), "date": date.today().isoformat()}


def _cpu() -> str:
    pairs = (line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines())
    about = {name.strip(): value.strip() for name, _, value in pairs}
    kinds = [kind for kind in _FAST_BF16 if kind in about.get("flags", "").split()]
    name, bf16 = about.get("model name", platform.machine()), " and ".join(kinds) or "no bf16 instructions"
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads, {bf16}"


def libraries(python: Path) -> str:
    """The versions of `LIBRARIES` in an environment; those that it lacks are left out."""
    code = (
        "import importlib.metadata as m, json, sys; has = {d.name for d in m.distributions()}; "
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:] if n in has}))"
    )
    done = subprocess.run([python, "-c", code, *LIBRARIES], capture_output=True, text=True, check=True)
    return ", ".join(f"{name} {number}" for name, number in json.loads(done.stdout).items())


def revision(tree: Path) -> str:
    """The Git revision of a working tree, and whether files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def wait_until_quiet(patience: float) -> bool:
    """Waits until hardly anything else runs; False if that has not happened after `patience` seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        began, before = time.monotonic(), seconds_elsewhere()
        time.sleep(min(2.0, patience))
        if seconds_elsewhere() - before < QUIET * (time.monotonic() - began):
            return True
    return False
