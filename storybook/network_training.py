"""How the small networks that read pictures are trained."""

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
    rise: int,
    max_grad_norm: float = math.inf,
    after: AfterStep | None = None,
) -> NetworkT:
    """Trains a network by AdamW on the CPU, its forward passes in bf16.

    Args:
        make: Makes the network, with the global random generator's weights.
        batches: Pictures `[B, 3, S, S]` in [0, 1], and what is to be read in them.
        loss_of: The loss of what the network says, by what is to be read.
        seed: Decides the first weights; the caller's random state stays as it is.
        steps: Batches to take.
        rise: Steps in which the learning rate rises, while it falls along half a cosine.
        max_grad_norm: Longer gradients are shortened to it.
        after: Called after every step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.02)
    for step in range(1, steps + 1):
        pictures, target = next(batches)
        factor = min(1.0, step / rise) * 0.5 * (1 + math.cos(math.pi * step / (steps + 1)))
        for group in optimizer.param_groups:
            group["lr"] = _RATE * factor
        with torch.autocast("cpu", dtype=torch.bfloat16):
            said = network(pictures.contiguous(memory_format=torch.channels_last))
        loss = loss_of(said, target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)
        optimizer.step()
        if after:
            after(step, steps, loss.item())
    return network


def told() -> AfterStep:
    """Prints a line every hundred steps and after the last."""
    started = time.monotonic()

    def tell(step: int, steps: int, loss: float) -> None:
        if step % 100 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {loss:.4f}  {time.monotonic() - started:.0f} s", flush=True)

    return tell
