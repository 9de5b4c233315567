"""What a run tells other programs while it trains: TensorBoard, Weights & Biases, by accelerate's trackers.

Each has a folder of its own below `logs/` in the run folder, and works without a network. None may change or
stop a run: one that fails is told once and left out from there on.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from PIL import Image

from finetune.config import TrainingSection
from finetune.config.choices import imported
from finetune.config.trackers import TRACKERS
from finetune.errors import ConfigError
from finetune.training.run_folder import RunFolder

_LONGEST = 250  # characters of a setting that is shown


def check_trackers(training: TrainingSection) -> None:
    """Refuses trackers whose package is missing, before long work.

    Raises:
        ConfigError: Naming what to install.
    """
    for name in training.trackers:
        if find_spec(TRACKERS[name].library) is None:
            raise ConfigError(
                f"The tracker {name} needs the package {TRACKERS[name].library}, which is not installed.",
                where="training.trackers",
                fix=f'Run pip install "finetune[trackers]", or leave {name} out.',
            )


class Trackers:
    """All trackers of a run; they are open inside.

    Args:
        training: Which.
        folder: The run's.
        settings: What is shown as the run's settings, by dotted key.
        step: Steps taken so far; what an earlier part of the run told of later ones is repeated.
        accelerator: Knows whether this is the process that tells; the others' trackers do nothing.
    """

    def __init__(
        self,
        training: TrainingSection,
        folder: RunFolder,
        settings: Mapping[str, Any],
        step: int,
        accelerator: Accelerator,
    ) -> None:
        self._folder, self._step = folder, step
        self._names = dict.fromkeys(training.trackers) if accelerator.is_main_process else {}
        self._settings = {key: _plain(value) for key, value in settings.items()}
        self._open: dict[str, GeneralTracker] = {}

    def __enter__(self) -> Trackers:
        """Opens them."""
        for name in self._names:
            self._told(name, partial(self._begin, name, self._step, self._settings))
        return self

    def __exit__(self, *_: object) -> None:
        """Closes them; what they have not written yet is written."""
        for name, tracker in list(self._open.items()):
            self._told(name, tracker.finish)

    def _begin(self, name: str, step: int, settings: dict[str, Any]) -> None:
        place = self._folder.logs / name
        place.mkdir(parents=True, exist_ok=True)
        tracker: GeneralTracker = imported(TRACKERS[name].make)(place, self._folder.path.resolve().name, step)
        tracker.start()
        self._open[name] = tracker
        if step == 0:
            tracker.store_init_configuration(settings)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Tells the numbers of a step."""
        for name, tracker in list(self._open.items()):
            self._told(name, partial(tracker.log, dict(values), step=step))

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Tells what hooks found, and a step's preview where the program takes pictures."""
        if values:
            self.log(step, values)
        if not self._open or not self._folder.sample(step).is_file():
            return
        with Image.open(self._folder.sample(step)) as image:
            pixels = np.asarray(image.convert("RGB"))[None]  # [1, H, W, 3]
        for name, tracker in list(self._open.items()):
            if show := getattr(tracker, "log_images", None):
                self._told(name, partial(show, {"preview": pixels}, step=step))

    def _told(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # of any of their libraries, or of the network: no reason to end a run
            self._open.pop(name, None)
            why = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"{name} failed and gets no more of this run: {why}", file=sys.stderr, flush=True)


def _plain(value: object) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float) else str(value)[:_LONGEST]


class _TensorBoard(TensorBoardTracker):  # type: ignore[misc]
    """As accelerate's, with the settings as a text: it would make a folder named after the time for them."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Shows the settings."""
        rows = "".join(f"|{key}|{value}|\n" for key, value in values.items())
        self.log({"settings": f"|setting|value|\n|---|---|\n{rows}"}, step=0)

    def log_images(self, values: dict[str, Any], step: int | None = None, **how: Any) -> None:
        """Shows pictures, `[B, H, W, 3]`."""
        super().log_images(values, step=step, **{"dataformats": "NHWC", **how})


def tensorboard(place: Path, name: str, step: int) -> GeneralTracker:
    """TensorBoard's event files in `place`; what an earlier part of the run told of later steps is hidden."""
    return _TensorBoard(place.name, place.parent, purge_step=step + 1 if step else None)


def wandb(place: Path, name: str, step: int) -> GeneralTracker:
    """Weights & Biases: offline, in `place`, unless this machine is logged in or WANDB_MODE says otherwise.

    A resumed run goes on under the same id.
    """
    marker = place / "id"
    if not marker.exists():
        marker.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
    if mode == "offline":
        os.environ.setdefault("WANDB_SILENT", "true")  # there is nothing to tell yet but where its files are
    own = marker.read_text(encoding="utf-8")
    return WandBTracker("finetune", dir=str(place), name=name, id=own, resume="allow", mode=mode)


def _logged_in() -> bool:
    """Whether there is a key for Weights & Biases where its own login leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc().hosts)
    except (OSError, NetrcParseError):
        return False
