"""What trackers get of a run: read back from TensorBoard's own files, and counted where one fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.tracking import GeneralTracker
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finetune.config import OptimizerSection, TrainingSection
from finetune.config.trackers import TRACKERS, Tracker
from finetune.errors import ConfigError
from finetune.training.check import check_trainable
from finetune.training.trackers import check_trackers
from tests.training.test_trainer import make


def preview(folder: Path, step: int) -> None:
    """A preview of one color, which says the step."""
    path = folder / "samples" / f"step-{step:06d}.png"
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (6, 4), (step * 20, 0, 0)).save(path)


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "logs" / "tensorboard")).Reload()


def test_tensorboard_has_the_curves_of_the_metrics_file_and_the_previews(tmp_path: Path) -> None:
    hooks = [(2, lambda step: preview(tmp_path, step))]
    make(tmp_path, trackers="tensorboard", log_every=2, hooks=hooks).run()
    found = events(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "lr", "grad_norm", "images_per_second"):
        told = {event.step: event.value for event in found.Scalars(name)}
        assert told == pytest.approx({line["step"]: line[name] for line in lines}, rel=1e-6)
    assert [image.step for image in found.Images("preview")] == sorted({line["step"] for line in lines})
    assert {(image.width, image.height) for image in found.Images("preview")} == {(6, 4)}


class Recording(GeneralTracker):
    """A tracker that keeps what it gets, or fails."""

    name, requires_logging_directory, main_process_only = "recording", False, True

    def __init__(self, fails: bool = False) -> None:
        super().__init__(_blank=True)
        self.fails, self.finished = fails, False
        self.got: dict[int, Any] = {}
        self.images: dict[int, Any] = {}
        self.settings: dict[str, Any] = {}

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if self.fails:
            raise OSError("no network")
        self.got[step or 0] = values

    def log_images(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.images[step or 0] = values["preview"]

    def finish(self) -> None:
        self.finished = True


def test_a_tracker_of_ones_own_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Recording()
    monkeypatch.setitem(TRACKERS, "mine", Tracker(library="json", make=f"{__name__}:made"))
    monkeypatch.setattr(f"{__name__}.made", lambda place, name, step: made, raising=False)
    hooks, identity = (
        [(3, lambda step: preview(tmp_path, step))],
        {"seed": 1, "data": {"a": "b"}, "long": "x" * 999},
    )
    make(tmp_path, trackers=["mine", "mine"], log_every=1, hooks=hooks, identity=identity).run()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert list(made.got) == steps and made.finished
    assert np.array_equal(made.images[3], np.full((1, 4, 6, 3), (60, 0, 0)))
    assert (
        made.settings["seed"] == 1
        and made.settings["data"] == "{'a': 'b'}"
        and len(made.settings["long"]) < 300
    )


def test_a_tracker_that_fails_changes_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make(tmp_path / "plain")
    plain.run()
    monkeypatch.setitem(TRACKERS, "mine", Tracker(library="json", make=f"{__name__}:made"))
    monkeypatch.setattr(f"{__name__}.made", lambda place, name, step: Recording(fails=True), raising=False)
    told = make(tmp_path / "told", trackers=["mine"], log_every=1)
    told.run()
    assert capsys.readouterr().err.count("mine failed and gets no more of this run: no network") == 1
    for name, value in plain.parameters.items():
        assert told.parameters[name].equal(value)


def test_a_missing_package_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "mine", Tracker(library="no_such_package_anywhere", make="x:y"))
    training = TrainingSection(trackers=("mine",))
    with pytest.raises(ConfigError, match=r"finetune\[trackers\]"):
        check_trackers(training)
    with pytest.raises(ConfigError, match="no_such_package_anywhere"):
        check_trainable(training, OptimizerSection())
