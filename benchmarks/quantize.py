"""What rounding a UNet's weights saves and costs: `python -m benchmarks.quantize`.

The same model with weights as they are, in int8 and in nf4, side by side in one process; the UNets are called
in turn with the same noisy pictures and prompts. "off by" is the root of the mean square of the difference,
relative to the plain model's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import get_args

import torch
from torch import Tensor

from benchmarks.machine import describe, wait_until_quiet
from benchmarks.measure import at_least
from benchmarks.table import markdown
from finetune.backbones import Backbone, load_stored
from finetune.backbones.precision import best_device, dtype_on, precision_name
from finetune.backbones.quantize import memory
from finetune.config import ModelSection
from finetune.config.model import Quantization
from finetune.diffusion.batch import Conditioning
from finetune.kernels import Quantized, can_pack, keep_freed_memory, packed

PROMPTS = ("a red cat on snow", "")  # as guidance needs both
TIMES = (100, 500, 900)


@dataclass
class Measured:
    """What was found out about one way to hold the weights."""

    model: Backbone
    memory: int
    load: float
    weights: float = 0.0
    prediction: float = 0.0
    seconds: list[float] = field(default_factory=list)


def load(name: str, kind: Quantization, precision: str) -> Measured:
    """A model on the device it would be sampled on."""
    began = time.monotonic()
    model = load_stored(ModelSection(name=name, quantize=kind))
    device = best_device()
    model.to(device, dtype_on(precision, device, model.unet))
    return Measured(model, memory(model.unet, model.dtype), time.monotonic() - began)


def weights_off(plain: Backbone, other: Backbone) -> float:
    """The relative error of the quantized layers' weights."""
    wrong = own = 0.0
    for name, layer in other.unet.named_modules():
        if isinstance(layer, Quantized):
            weight = plain.unet.get_submodule(name).weight.float()
            wrong += float((layer.weight - weight).square().sum(dtype=torch.float64))
            own += float(weight.square().sum(dtype=torch.float64))
    return (wrong / own) ** 0.5 if own else 0.0


class Question:
    """The same inputs for each model: noise of every third of the schedule, both of guidance's prompts."""

    def __init__(self, model: Backbone, size: int) -> None:
        side, drawn = size // model.latent_factor, torch.Generator().manual_seed(0)
        self._noise = torch.randn(1, model.latent_channels, side, side, generator=drawn)
        told = model.conditioning(list(PROMPTS), [((size, size), (0, 0), (size, size))] * 2)
        with torch.no_grad():
            assert told.tokens is not None
            hidden, pooled = model.encode_text(told.tokens)
        self._told = Conditioning(hidden=hidden, pooled=pooled, time_ids=told.time_ids)

    @torch.no_grad()
    def ask(self, model: Backbone, step: int) -> Tensor:
        """A UNet call with both prompts."""
        noisy = self._noise.expand(len(PROMPTS), -1, -1, -1).to(model.device)
        answer = model.predict(noisy, torch.full((len(PROMPTS),), step, device=model.device), self._told)
        return answer.float().cpu()


def measure(name: str, size: int | None, precision: str, repeats: int, patience: float) -> str:
    """The table of one model."""
    found = {kind: load(name, kind, precision) for kind in get_args(Quantization)}
    plain = found["none"].model
    for one in found.values():
        one.weights = weights_off(plain, one.model)
    question = Question(plain, size or plain.native_size)
    layers = [layer for one in found.values() for layer in one.model.unet.modules() if can_pack(layer)]
    with packed(layers):  # as the sampler does
        expected = torch.stack([question.ask(plain, step) for step in TIMES])
        for one in found.values():
            given = torch.stack([question.ask(one.model, step) for step in TIMES])
            one.prediction = float((given - expected).norm() / expected.norm())
        for _ in range(repeats):
            for one in found.values():
                wait_until_quiet(patience)
                began = time.monotonic()
                question.ask(one.model, TIMES[1])
                one.seconds.append(time.monotonic() - began)
    head = f"{plain.name}, {size or plain.native_size} px, {precision_name(plain.dtype)}"
    return f"{head}\n\n{table(found)}"


def table(found: dict[str, Measured]) -> str:
    """A row for each way to hold the weights."""
    base = found["none"]
    rows = [
        [
            kind,
            f"{one.memory / 1e6:,.0f}",
            f"{one.memory / base.memory:.2f}",
            f"{100 * one.weights:.2f}",
            f"{100 * one.prediction:.2f}",
            f"{median(one.seconds):.3f}",
            f"{min(one.seconds):.3f}–{max(one.seconds):.3f}",
            f"{median(one.seconds) / median(base.seconds):.2f}",
            f"{one.load:.1f}",
        ]
        for kind, one in found.items()
    ]
    weights, prediction = "weights off by, %", "prediction off by, %"
    columns = [
        "",
        "UNet, MB",
        "ratio",
        weights,
        prediction,
        "s/call",
        "lowest–highest",
        "ratio",
        "loading, s",
    ]
    return markdown(columns, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize", description=__doc__)
    parser.add_argument("--model", action="append", help="a folder, file or alias (default: storybook)")
    parser.add_argument("--size", type=int, help="side in pixels (default: the model's)")
    parser.add_argument("--precision", default="auto", help="of the plain weights (default: %(default)s)")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="calls of each (default: %(default)s)")
    parser.add_argument("--patience", type=float, default=240, help="seconds to wait for a quiet machine")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    print("\n".join(f"{key}: {value}" for key, value in describe().items()))
    for name in given.model or ["storybook"]:
        print(f"\n{measure(name, given.size, given.precision, given.repeats, given.patience)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
