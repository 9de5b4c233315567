"""What a run says of its progress while it trains, and who is told."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from finetune.training.run_folder import RunFolder

_KEPT = 0.95  # of an average, each step: over about the last twenty


@dataclass(frozen=True)
class Now:
    """How far a run is.

    Attributes:
        step: Steps taken, of `steps`.
        steps: Steps in all.
        loss: The loss, smoothed over about the last twenty steps: that of a single one depends mostly on the
            timesteps it drew. None as long as no row was to be learned.
        images_per_second: Smoothed likewise; previews and checkpoints do not count.
        seconds_left: Until the last step at the pace of this run so far, everything counted.
        memory: Bytes in use; see `memory_in_use`.
        memory_of: Bytes that the GPU has; None without one.
        values: What `metrics.jsonl` has of a step, such as the `loss` of this one.
    """

    step: int
    steps: int
    loss: float | None
    images_per_second: float
    seconds_left: float
    memory: int = 0
    memory_of: int | None = None
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """What was written or computed beside the training.

    Attributes:
        kind: "checkpoint", "preview", "validation" or "evaluation".
        path: What was written, if anything.
        loss: The loss on held-out pictures, of "validation".
        values: Numbers for trackers and programs, by name.
        keep: Whether a checkpoint of this step must be on disk.
        stop: Whether training should end here.
    """

    kind: str
    path: Path | None = None
    loss: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    keep: bool = False
    stop: bool = False


class Watcher:
    """Is told what happens while a run trains, in its main process; this one does nothing about it.

    Nothing that a watcher does changes the run.
    """

    def begin(self, folder: Path, steps: int, done: int) -> None:
        """Training begins, after `done` of `steps` steps; its results go to `folder`."""

    def advance(self, now: Now) -> None:
        """A step was taken."""

    def happened(self, step: int, what: Event | None) -> None:
        """Something was written or computed after `step` steps; None if it is nothing to tell."""

    def stopping(self) -> None:
        """The user asked the run to stop; called by a signal handler."""

    def end(self) -> None:
        """Training is over, whatever the reason."""


def all_told(watcher: Watcher, step: int, events: Sequence[Event | None]) -> Event:
    """Tells a watcher what hooks did after a step; gives the values, and the wishes, of all of them."""
    for event in events:
        watcher.happened(step, event)
    found = [event for event in events if event]
    values = {name: value for event in found for name, value in event.values.items()}
    return Event(
        "hooks", None, None, values, any(event.keep for event in found), any(event.stop for event in found)
    )


class Tally:
    """Tells a watcher of each step.

    Args:
        watcher: Who is told.
        folder: Where the results go.
        device: Whose memory is told.
        images: Images per step.
    """

    def __init__(self, watcher: Watcher, folder: RunFolder, device: torch.device, images: int) -> None:
        self.watcher, self.folder, self.device = watcher, folder, device
        self.rate = Rate(images)
        self._loss: float | None = None
        self._memory: tuple[int, int | None] = (0, None)
        self._looked = -math.inf

    @contextmanager
    def over(self, steps: int, done: int) -> Iterator[None]:
        """Inside, a run goes from `done` to `steps` steps."""
        self._steps, self._done, self._started = steps, done, time.monotonic()
        self.watcher.begin(self.folder.path, steps, done)
        try:
            yield
        finally:
            self.watcher.end()

    def step(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """A step was taken.

        Args:
            step: Steps taken.
            values: Of this one; it has no `loss` if all of its rows keep the model as it was.

        Returns:
            The values and `images_per_second`, smoothed.
        """
        told = {**values, "images_per_second": self.rate.tick()}
        loss, now = values.get("loss", self._loss), time.monotonic()
        if loss is not None:
            self._loss = loss if self._loss is None else _KEPT * self._loss + (1 - _KEPT) * loss
        left = (now - self._started) / max(1, step - self._done) * (self._steps - step)
        if now - self._looked >= 1:  # the system takes a while to answer
            self._looked, self._memory = now, memory_in_use(self.device)
        rate = told["images_per_second"]
        self.watcher.advance(Now(step, self._steps, self._loss, rate, left, *self._memory, told))
        return told

    def restart(self) -> None:
        """A step begins: the time since the last one (previews, checkpoints) is no part of the rate."""
        self.rate.restart()


def memory_in_use(device: torch.device) -> tuple[int, int | None]:
    """Bytes that this process holds, and how many there are in all.

    Returns:
        With a CUDA device, what PyTorch has reserved there and what the device has; else the memory of the
        process (resident set size) and None.
    """
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
    return psutil.Process().memory_info().rss, None


class Rate:
    """Images per second, smoothed over about the last twenty steps.

    Args:
        images: Images per step.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self._seconds: float | None = None
        self._last = time.monotonic()

    def tick(self) -> float:
        """The current rate; to be called once per step."""
        spent = time.monotonic() - self._last
        self._seconds = spent if self._seconds is None else _KEPT * self._seconds + (1 - _KEPT) * spent
        return self.images / max(self._seconds, 1e-9)

    def restart(self) -> None:
        """Starts a step: the time since the last one (previews, checkpoints) does not count."""
        self._last = time.monotonic()
