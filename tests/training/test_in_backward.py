"""Optimizer steps inside the backward pass: the same result, without holding all gradients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetune.config import OptimizerSection, TrainingSection
from finetune.config.optimizers import OPTIMIZERS
from finetune.errors import ConfigError
from finetune.training import device, in_backward
from finetune.training.in_backward import InBackward
from tests.training.test_optimizers import settings
from tests.training.test_trainer import make

SEPARABLE = [name for name, row in OPTIMIZERS.items() if row.separable and not row.only_cuda]


@pytest.mark.parametrize("at_once", [0, 2**26])
@pytest.mark.parametrize("name", SEPARABLE)
def test_a_run_ends_in_the_same_bytes(
    tmp_path: Path, name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_backward, "_AT_ONCE", at_once)
    after, inside = (
        make(tmp_path / str(chosen), optimizer=settings(name, in_backward=chosen), max_grad_norm=None)
        for chosen in (False, True)
    )
    after.run()
    inside.run()
    for parameter, value in after.parameters.items():
        assert torch.equal(inside.parameters[parameter], value)
    metrics = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("False", "True")]
    norms = [[line.partition('"grad_norm"')[2].partition(",")[0] for line in lines] for lines in metrics]
    numbers = [[float(norm.strip(": ")) for norm in row] for row in norms]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)


def test_no_two_gradients_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_backward, "_AT_ONCE", 0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    held: list[int] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            held.append(sum(p.grad is not None for p in model.parameters()))
            super().step(closure)

    steps = InBackward(model.parameters(), Watched(model.parameters(), lr=0.1))
    model(torch.ones(2, 4)).sum().backward()
    steps.finish()
    assert held == [1] * 10 + [0]
    assert all(p.grad is None for p in model.parameters())


def faults(optimizer: dict[str, Any], training: dict[str, Any]) -> Iterator[str]:
    section = OptimizerSection(in_backward=True, **optimizer)
    yield from (fault.fix for fault in section.unfit(TrainingSection(**{"max_grad_norm": None} | training)))


def test_what_needs_all_gradients_is_refused() -> None:
    assert list(faults({}, {})) == []
    assert [name for name in OPTIMIZERS if list(faults(settings(name), {}))] == [
        "prodigy", "schedule_free_adamw",
    ]  # fmt: skip
    for key, value in (("max_grad_norm", 1.0), ("accumulation", 2), ("precision", "fp16")):
        assert len(list(faults({}, {key: value}))) == 1


def test_several_processes_are_refused() -> None:
    class Two:
        num_processes = 2

    with pytest.raises(ConfigError, match=r"optimizer\.in_backward"):
        device.check_alone(Two())  # type: ignore[arg-type]
