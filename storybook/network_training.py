"""Trains the small networks that read pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

NetworkT = TypeVar("NetworkT", bound=nn.Module)
TargetT = TypeVar("TargetT")

AfterStep = Callable[[int, int, float], None]
"""Called with the step, the number of steps, and the loss."""

_RATE = 3e-3


def train_network(
    make: Callable[[], NetworkT],
    batches: Iterator[tuple[Tensor, TargetT]],
    loss_of: Callable[[Any, TargetT], Tensor],
    *,
    seed: int,
    steps: int,
    warmup_steps: int,
    max_grad_norm: float = math.inf,
    after_step: AfterStep | None = None,
) -> NetworkT:
    """Trains a network with AdamW on the CPU, with forward passes in bf16.

    Args:
        make: Makes the network, initialized with the global random generator.
        batches: Pictures `[B, 3, S, S]` in [0, 1], and their targets.
        loss_of: The loss, from the network's output and the targets.
        seed: Seed of the initial weights; the caller's random state is unchanged.
        steps: How many batches to train on.
        warmup_steps: Steps of linear warmup, multiplied with a cosine decay over all steps.
        max_grad_norm: Gradients are clipped to this norm.
        after_step: Called after every step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.02)
    for step in range(1, steps + 1):
        pictures, target = next(batches)
        factor = min(1.0, step / warmup_steps) * 0.5 * (1 + math.cos(math.pi * step / (steps + 1)))
        for group in optimizer.param_groups:
            group["lr"] = _RATE * factor
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = network(pictures.contiguous(memory_format=torch.channels_last))
        loss = loss_of(output, target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)
        optimizer.step()
        if after_step:
            after_step(step, steps, loss.item())
    return network


def progress_printer() -> AfterStep:
    """Returns what prints a line every hundred steps and after the last."""
    started = time.monotonic()

    def show(step: int, steps: int, loss: float) -> None:
        if step % 100 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {loss:.4f}  {time.monotonic() - started:.0f} s", flush=True)

    return show
