"""How much memory and time exports of full-size models need: `python -m benchmarks.export`.

Models of the published structure with random weights in fp16, and LoRAs for all of their layers, are made in
a folder if they are not there yet. Each export is the command line in a process of its own; its result is
removed after it has been measured.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.machine import describe
from benchmarks.measure import ROOT, last_words
from benchmarks.models import random_model
from benchmarks.table import markdown
from finetune.adapters import LowRank
from finetune.adapters.inject import adaptable
from finetune.adapters.weights import LoRAWeights
from finetune.backbones.precision import best_device
from finetune.backbones.skeleton import skeleton
from finetune.config import LoRASection, ModelSection
from finetune.formats.kohya import write_kohya_weights

FAMILIES = ("sd1", "sdxl")
RANK = 16
# The process tells the peak of its own memory, files that it has mapped included.
_TOLD = """
import sys
from finetune.cli.main import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(*(line.split()[1] for line in status if line.startswith("VmHWM:")))
sys.exit(code)
"""


@dataclass(frozen=True)
class Case:
    """One export: what the table calls it, the command up to the result, and the result's ending."""

    name: str
    command: tuple[str, ...]
    ending: str = ""


def cases(model: Path, lora: Path, other: Path) -> list[Case]:
    """What is measured of a model and two LoRAs for it."""
    how = ("--set", f"model.name={model}")
    merged, one_file = ("export", str(lora), "--to", "merged"), ("export", str(lora), "--to", "single-file")
    return [
        Case("LoRA, --to merged, fp16", (*merged, *how, "--dtype", "fp16")),
        Case("LoRA, --to merged, fp32", (*merged, *how)),
        Case("LoRA, --to single-file, fp16", (*one_file, *how, "--dtype", "fp16"), ".safetensors"),
        Case("LoRA, --to single-file, fp32", (*one_file, *how), ".safetensors"),
        Case(
            "whole model, --to single-file, fp16",
            ("export", str(model), "--to", "single-file", "--dtype", "fp16"),
            ".safetensors",
        ),
        Case(
            "merge --into-model of two LoRAs, fp16",
            ("merge", f"{lora}:0.5", f"{other}:0.5", "--into-model", *how, "--dtype", "fp16"),
        ),
    ]


def random_lora(model: Path, file: Path, seed: int) -> Path:
    """Writes a LoRA for all linear layers and convolutions, also of text encoders, unless there is one."""
    if file.exists():
        return file
    backbone = skeleton(ModelSection(name=str(model)))
    assert backbone is not None
    drawn = torch.Generator().manual_seed(seed)

    def factor(*shape: int) -> torch.Tensor:
        return 0.01 * torch.randn(*shape, generator=drawn)

    layers = {
        (part, backbone.file_name(part, live)): LowRank(
            factor(RANK, *layer.weight.shape[1:]),  # type: ignore[operator,union-attr]
            factor(layer.weight.shape[0], RANK, *[1] * (layer.weight.ndim - 2)),  # type: ignore[operator,union-attr]
            float(RANK),
        )
        for part, module in backbone.module_roots().items()
        for live, layer in adaptable(module).items()
    }
    section = LoRASection(rank=RANK, alpha=RANK)
    write_kohya_weights(file, LoRAWeights(layers), backbone, section, {}, torch.float16)
    return file


def measured(case: Case, out: Path, tree: Path) -> list[str]:
    """Runs an export; gives the row of the table: its name, peak GiB, seconds and the result's GB."""
    result, log = out.with_name(out.name + case.ending), out.with_suffix(".log")
    began = time.monotonic()
    with log.open("w+", encoding="utf-8") as output:
        done = subprocess.run(
            [sys.executable, "-c", _TOLD, *case.command, "--output", str(result)],
            cwd=tree,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    seconds = time.monotonic() - began
    if done.returncode:
        return [case.name, f"failed: {last_words(log)}", "", ""]
    peak = int(log.read_text(encoding="utf-8").split()[-1]) / 2**20
    files = [result] if result.is_file() else [file for file in result.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e9
    shutil.rmtree(result) if result.is_dir() else result.unlink()
    return [case.name, f"{peak:.2f}", f"{seconds:.0f}", f"{size:.2f}"]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--place", type=Path, help="folder for models, which is kept; else a temporary one")
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--only", default="", help="measure cases whose name contains this")
    parser.add_argument("--tree", type=Path, default=ROOT, help="whose code is run (default: this tree's)")
    given = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        place = (given.place or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        print(*(f"{key}: {value}" for key, value in describe().items()), sep="\n")
        for family in given.families:
            model = random_model(family, place, str(best_device()))
            loras = [random_lora(model, place / f"{family}-{n}.safetensors", n) for n in (1, 2)]
            rows = []
            for case in cases(model, *loras):
                if given.only in case.name:
                    rows.append(measured(case, Path(temporary) / "out", given.tree.resolve()))
                    print(f"{family}: {', '.join(rows[-1])}", flush=True)
                    failed |= rows[-1][1].startswith("failed")
            print("", markdown([family, "peak GiB", "s", "GB written"], rows), "", sep="\n", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
