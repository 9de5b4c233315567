"""Sampling beside a plain diffusers pipeline: `python -m benchmarks.sampling`.

Both make the same pictures of a full-size model with random weights, in turn in one process, the pipeline in
each precision that a CPU or GPU has. The ratio is that to this program's sampler.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch
from diffusers import DiffusionPipeline

from benchmarks.machine import describe, wait_until_quiet
from benchmarks.models import random_model
from benchmarks.table import markdown
from finetune import Sampler
from finetune.backbones.precision import PRECISIONS, best_device
from finetune.kernels import keep_freed_memory
from finetune.sampling.schedulers import make_scheduler

OURS, PROMPT, SCHEDULER = "finetune", "a red cat on snow", "dpm++"


def samplers(model: Path, size: int, steps: int) -> dict[str, Callable[[], object]]:
    """By name, what makes one picture."""
    own = Sampler.load(str(model))

    def ours() -> object:
        return own(PROMPT, steps=steps, size=size, scheduler=SCHEDULER, guidance=5.0)

    return {OURS: ours} | {
        f"diffusers, {name}": _plain(model, size, steps, dtype)
        for name, dtype in PRECISIONS.items()
        if name != "fp16" or best_device().type == "cuda"
    }


def _plain(model: Path, size: int, steps: int, dtype: torch.dtype) -> Callable[[], object]:
    pipeline = DiffusionPipeline.from_pretrained(model, torch_dtype=dtype).to(best_device())
    pipeline.scheduler = make_scheduler(SCHEDULER, pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)

    def picture() -> object:
        return pipeline(PROMPT, num_inference_steps=steps, height=size, width=size, guidance_scale=5.0)

    return picture


def table(seconds: Mapping[str, list[float]]) -> str:
    """Medians and ranges, and the ratio of each to the first."""
    base = median(next(iter(seconds.values())))
    rows = [
        [name, f"{median(all_):.2f}", f"{min(all_):.2f}–{max(all_):.2f}", f"{median(all_) / base:.2f}"]
        for name, all_ in seconds.items()
    ]
    return markdown(["", "s/picture", "lowest–highest", "ratio"], rows)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--model", type=Path, help="a diffusers folder; SD 1.5 with random weights if unset")
    parser.add_argument("--size", type=int, default=512, help="side in pixels (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--patience", type=float, default=240, help="seconds to wait for a quiet machine")
    given = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as place:
        model = given.model or random_model("sd1", Path(place), str(best_device()))
        makers = samplers(model, given.size, given.steps)
        seconds: dict[str, list[float]] = {name: [] for name in makers}
        for maker in makers.values():  # what only the first picture needs
            maker()
        for _ in range(given.repeats):
            for name, maker in makers.items():
                wait_until_quiet(given.patience)
                began = time.monotonic()
                maker()
                seconds[name].append(time.monotonic() - began)
    print("\n".join(f"{key}: {value}" for key, value in describe().items()), "", table(seconds), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
