"""Every recipe on full-size models with random weights: `python -m benchmarks.gpu`.

For each case it prints seconds per step (the median of all but the first), seconds to the end of the first
step and peak memory, with the machine; `--json FILE` saves the figures. A case that fails is named and
makes the exit code 1; cases that no longer fit into `--budget` seconds are named and skipped.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

from benchmarks.machine import describe
from benchmarks.models import random_model
from benchmarks.pictures import draw_pictures
from benchmarks.table import markdown
from finetune.backbones.families import Family
from finetune.cli.terminal import quiet_libraries, quiet_loading
from finetune.recipes import RECIPES, build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import assemble, prepare
from finetune.training import RunFolder

EIGHT_BIT = "optimizer.name=adamw8bit"
CHECKPOINTED = "training.gradient_checkpointing=true"
GRAY = "data.preprocess=grayscale"
WORD = "adapter.placeholder=<mycat>"
EIGHT = "training.batch_size=8"
XFORMERS = "training.attention=xformers"
COMPILED = "training.compile=true"

# Recipes that load a model; `pretrain` makes one, so it has no published size.
LOADING = tuple(kind for kind, recipe in RECIPES.items() if "model.name" not in recipe.unused)
BRIEF = (
    *("training.batch_size=1", "training.accumulation=1", "training.ema=false"),
    *("optimizer.warmup_steps=0", "preview.every=0"),
)


@dataclass(frozen=True)
class Case:
    """One way to train: the recipe, the model and what differs from the preset."""

    kind: str
    family: Family
    precision: str
    changes: tuple[str, ...] = ()


@dataclass
class Figures:
    """What a case needed: seconds, and GPU memory in GiB."""

    case: Case
    first: float = 0.0
    step: float = 0.0
    allocated: float = 0.0
    reserved: float = 0.0
    failure: str = ""


CASES = (
    Case("lora", "sd1", "bf16"),
    Case("lora", "sd1", "fp16"),
    Case("lora", "sd1", "bf16", (CHECKPOINTED,)),
    Case("lora", "sd1", "bf16", ("adapter.text_encoder=true",)),
    Case("distill", "sd1", "bf16"),
    Case("embedding", "sd1", "bf16", (WORD,)),
    Case("controlnet", "sd1", "bf16", (GRAY, EIGHT_BIT)),
    Case("dreambooth", "sd1", "bf16", ("optimizer.name=adamw",)),
    Case("dreambooth", "sd1", "bf16", (EIGHT_BIT,)),
    Case("dreambooth", "sd1", "fp16", (EIGHT_BIT, CHECKPOINTED)),
    Case("full", "sd1", "bf16", ("optimizer.name=paged_adamw8bit",)),
    Case("lora", "sdxl", "bf16"),
    Case("lora", "sdxl", "fp16", (CHECKPOINTED,)),
    Case("lora", "sdxl", "bf16", ("adapter.text_encoder=true", CHECKPOINTED)),
    Case("distill", "sdxl", "bf16", (CHECKPOINTED,)),
    Case("embedding", "sdxl", "bf16", (WORD, CHECKPOINTED)),
    Case("controlnet", "sdxl", "bf16", (GRAY, EIGHT_BIT, CHECKPOINTED)),
    Case("dreambooth", "sdxl", "bf16", (EIGHT_BIT, CHECKPOINTED)),
    Case("full", "sdxl", "bf16", (EIGHT_BIT, CHECKPOINTED)),
    # What makes a step faster; the first of each family above is what they are compared with, or this:
    Case("lora", "sd1", "bf16", (EIGHT, "training.attention=sdpa")),
    Case("lora", "sd1", "bf16", (EIGHT, "training.attention=flash")),
    *([Case("lora", "sd1", "bf16", (EIGHT, XFORMERS))] if find_spec("xformers") else []),
    Case("lora", "sd1", "fp32", (EIGHT,)),
    Case("lora", "sd1", "fp32", (EIGHT, "training.tf32=true")),
    Case("lora", "sd1", "bf16", (EIGHT, COMPILED)),
)


def measure(case: Case, model: Path, pictures: Path, place: Path, steps: int, *changes: str) -> Figures:
    """Trains a few steps as the command line would, and measures time and memory.

    Args:
        case: What is trained.
        model: A diffusers folder.
        pictures: A folder of captioned pictures.
        place: An empty folder for the run.
        steps: At least 2, since the first is measured separately.
        changes: More settings, as `--set` takes them.
    """
    brief = (*BRIEF, f"training.steps={steps}", f"training.checkpoint_every={steps + 1}")
    every = {
        c.partition("=")[0]: c
        for c in (*brief, f"training.precision={case.precision}", *case.changes, *changes)
    }
    given = [Setting("model.name", str(model), "benchmark"),
             Setting(f"data.{RECIPES[case.kind].folder_field}", pictures, "benchmark")]  # fmt: skip
    found, clock, began = Figures(case), [], time.monotonic()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        recipe = build(case.kind, [*given, *map(parse_set, every.values())])
        this = assemble(recipe, RunFolder(place))
        prepare(this)

        def tick(step: int) -> None:
            if cuda:
                torch.cuda.synchronize()
            clock.append(time.monotonic())

        this.trainer.hooks.append((1, tick))
        # The last checkpoint is not part of a step, and takes gigabytes.
        this.trainer.save = lambda: None  # type: ignore[method-assign]
        this.trainer.run()
    except Exception as error:  # one case must not stop the others
        found.failure = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return found
    found.first = clock[0] - began
    found.step = median(later - sooner for sooner, later in pairwise(clock))
    if cuda:
        found.allocated = torch.cuda.max_memory_allocated() / 2**30
        found.reserved = torch.cuda.max_memory_reserved() / 2**30
    return found


def name_of(case: Case) -> str:
    """What a case is called in tables."""
    return " ".join((case.kind, case.family, case.precision, *(c.partition(".")[2] for c in case.changes)))


def save(figures: list[Figures], file: Path | None) -> None:
    """Writes the machine and the figures so far as JSON, if a file was asked for."""
    if file:
        told = {**describe(), "figures": [asdict(one) for one in figures]}
        file.write_text(json.dumps(told, indent=1), encoding="utf-8")


def table(figures: list[Figures]) -> str:
    """The figures as Markdown."""
    rows = []
    for one in figures:
        cells = [f"{one.step:.3f}", *(f"{value:.2f}" for value in (one.first, one.allocated, one.reserved))]
        rows.append([name_of(one.case), *(cells if not one.failure else [one.failure, "", "", ""])])
    return markdown(["", "s/step", "first step, s", "GiB used", "GiB held"], rows)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--families", nargs="+", default=["sd1", "sdxl"], choices=["sd1", "sd2", "sdxl"])
    parser.add_argument("--kinds", nargs="+", default=LOADING, choices=LOADING)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--size", type=int, help="side in pixels (default: 512, or 1024 for sdxl)")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds after which cases are skipped")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    quiet_libraries()
    quiet_loading()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    began, figures, skipped = time.monotonic(), list[Figures](), list[Case]()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        place = Path(name)
        os.chdir(place)  # class images would go below it
        for number, case in enumerate(
            c for c in CASES if c.family in given.families and c.kind in given.kinds
        ):
            if time.monotonic() - began > given.budget:
                skipped.append(case)
                continue
            size = given.size or (1024 if case.family == "sdxl" else 512)
            pictures = place / f"pictures-{size}"
            pictures = (
                pictures if pictures.exists() else draw_pictures(pictures, size, 4, "a photo of <mycat>")
            )
            model = random_model(case.family, place, device)
            run = place / f"run-{number}"
            figures.append(measure(case, model, pictures, run, given.steps, f"data.resolution={size}"))
            # At once, since what comes next may be stopped.
            print(f"{name_of(case)}: {figures[-1].failure or f'{figures[-1].step:.3f} s a step'}", flush=True)
            save(figures, given.json)
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
    print(*(f"{key}: {value}" for key, value in describe().items()), "", table(figures), sep="\n")
    for case in skipped:
        print(f"skipped, out of time: {case}")
    return 1 if any(one.failure for one in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
