"""Runs a Python program as `python` would, notes the end of each optimizer step, and ends it after some.

`python benchmarks/hook.py LOG STEPS (FILE | -m MODULE) ARGUMENTS…`

Any trainer that steps an optimizer of PyTorch is measured alike, without a change to it. This file runs in
the trainer's own environment, so it needs only torch and psutil (which accelerate brings), and Linux.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

_NOT_WORK = ("idle", "iowait", "guest", "guest_nice")  # guests' time is counted as user time, too


def seconds_elsewhere() -> float:
    """CPU seconds that everything but this process has used; only differences mean something.

    What other guests of the same host took away (steal) is part of it. A child's time counts as elsewhere
    until the child has ended and was waited for.
    """
    total = sum(seconds for kind, seconds in psutil.cpu_times()._asdict().items() if kind not in _NOT_WORK)
    return float(total - sum(os.times()[:4]))


def peak_memory() -> float:
    """The most resident memory that this process has had, in GiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kib) / 2**20


class StepLog:
    """Writes one JSON line a training step, and ends the process after the last.

    A line has `time` (seconds of the monotonic clock, which processes share), `memory` and `gpu` (peaks so
    far, GiB) and `elsewhere` (CPU seconds, `seconds_elsewhere`).

    Args:
        file: Where the lines go.
        steps: The process ends after so many.
    """

    def __init__(self, file: Path, steps: int) -> None:
        self.file, self.steps = file.open("w", encoding="utf-8"), steps
        self.done, self.stepped = 0, Counter[tuple[int, int]]()

    def __call__(self, optimizer: Any, *_: object) -> None:
        """Called by PyTorch after each step of any optimizer."""
        # A trainer may have many optimizers, such as one for each parameter, or step some parameters at a
        # time. A step is over when the optimizer that is ahead of others has stepped all of its own.
        own = {(id(optimizer), id(p)): p.grad for group in optimizer.param_groups for p in group["params"]}
        self.stepped.update(key for key, gradient in own.items() if gradient is not None)
        if any(self.stepped[key] <= self.done for key in own):
            return
        self.done += 1
        gpu, torch = 0.0, sys.modules["torch"]
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            gpu = torch.cuda.max_memory_allocated() / 2**30
        line = {"time": time.monotonic(), "memory": peak_memory(), "gpu": gpu}
        print(json.dumps(line | {"elsewhere": seconds_elsewhere()}), file=self.file, flush=True)
        if self.done == self.steps:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)  # at once: what a trainer does at its end is not measured


class WhenImported(MetaPathFinder):
    """Calls a function with a module once it has been imported, so that programs import it when they would.

    Args:
        name: The module's full name.
        then: The function.
    """

    def __init__(self, name: str, then: Callable[[ModuleType], object]) -> None:
        self.name, self.then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, whose loader also calls the function; None for other modules."""
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        loader: Any = spec.loader if spec is not None else None
        execute = loader.exec_module

        def then(module: ModuleType) -> None:
            execute(module)
            self.then(module)

        loader.exec_module = then
        return spec


def main() -> None:
    """The command line."""
    _, log, steps, *program = sys.argv
    noted = StepLog(Path(log), int(steps))
    sys.meta_path.insert(
        0, WhenImported("torch.optim.optimizer", lambda m: m.register_optimizer_step_post_hook(noted))
    )
    if program[0] == "-m":
        sys.argv, sys.path[0] = program[1:], os.getcwd()
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = program, str(Path(program[0]).resolve().parent)
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    main()
