"""Each optimizer: the library's own steps, its formula, resume to the bit, what it refuses."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from diffusers import optimization
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn
from transformers.optimization import Adafactor

from finetune.config import OptimizerSection, TrainingSection
from finetune.diffusion.random import normal
from finetune.errors import ConfigError
from finetune.recipes import build
from finetune.recipes.load import Setting
from finetune.recipes.presets import with_preset
from finetune.training import RunFolder, check_trainable
from finetune.training.checkpoint import optimizer_counters, read_checkpoint
from finetune.training.optimizers import make_optimizer, rate_factor
from tests.tiny import only
from tests.training.test_trainer import Model, Source, killed_at, make, take_steps

LIBRARIES: dict[str, Callable[[Any], Any]] = {
    "adamw8bit": lambda p: bitsandbytes.optim.AdamW8bit(p, lr=0.01, weight_decay=0.1),
    "adafactor": lambda p: Adafactor(
        p, lr=0.01, weight_decay=0.1, scale_parameter=False, relative_step=False
    ),
    "lion": lambda p: bitsandbytes.optim.Lion(p, lr=0.01, weight_decay=0.1),
    "prodigy": lambda p: Prodigy(
        p, lr=0.5, weight_decay=0.1, d0=1e-3, d_coef=2, use_bias_correction=True, safeguard_warmup=True
    ),
    "schedule_free_adamw": lambda p: AdamWScheduleFree(p, lr=0.01, weight_decay=0.1),
}  # fmt: skip
NAMES = ["adamw", "adamw_bf16", *LIBRARIES]


def settings(name: str, **more: Any) -> dict[str, Any]:
    """Settings of the optimizers in `LIBRARIES`."""
    own = {"lr": 0.5, "d0": 1e-3, "d_coef": 2} if name == "prodigy" else {}
    return {"name": name, "weight_decay": 0.1, **own, **more}


def one(section: OptimizerSection, start: Tensor) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    parameter = nn.Parameter(start.clone())
    return parameter, make_optimizer([{"params": [parameter], "lr": section.lr}], section)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_step_is_the_library_s(tmp_path: Path, name: str) -> None:
    trainer = make(tmp_path, steps=5, max_grad_norm=0.5, optimizer=settings(name))
    trainer.run()
    model = Model()
    optimizer = LIBRARIES[name](model.parameters())
    if name == "schedule_free_adamw":
        optimizer.train()
    take_steps(5, model, optimizer)
    for parameter, value in model.named_parameters():
        assert not torch.equal(value, dict(Model().named_parameters())[parameter])
        assert torch.allclose(trainer.parameters[parameter], value, atol=1e-6)


@pytest.mark.parametrize("betas", [None, (0.5, 0.8)])
def test_lion_is_its_formula(betas: tuple[float, float] | None) -> None:
    section = OptimizerSection(name="lion", lr=0.1, weight_decay=0.2, betas=betas)
    first, second = betas or (0.9, 0.99)
    start, gradients = normal(0, [0], "w", (6,))[0], normal(0, range(4), "g", (6,))
    parameter, optimizer = one(section, start)
    expected, momentum = start.clone(), torch.zeros(6)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        expected -= 0.1 * (0.2 * expected + (first * momentum + (1 - first) * gradient).sign())
        momentum = second * momentum + (1 - second) * gradient
    assert torch.allclose(parameter, expected, atol=1e-6)


def test_prodigy_finds_the_rate_that_the_library_finds() -> None:
    start = normal(0, [0], "w", (6,))[0]
    section = OptimizerSection.model_validate(settings("prodigy", lr=1.0, d0=1e-2))
    told = {"d0": 1e-2, "d_coef": 2, "use_bias_correction": True, "safeguard_warmup": True}
    own, optimizer = one(section, start)
    expected = nn.Parameter(start.clone())
    library = Prodigy([expected], lr=1.0, weight_decay=0.1, **told)
    for _ in range(60):  # down a parabola, long enough for the estimate to grow
        for parameter, stepper in ((own, optimizer), (expected, library)):
            parameter.grad = parameter.detach().clone()
            stepper.step()
    assert library.param_groups[0]["d"] > 1.5e-2
    assert torch.equal(own, expected)


def test_adafactor_is_its_formula() -> None:
    section = OptimizerSection(name="adafactor", lr=0.1, weight_decay=0.2)
    start, gradients = normal(0, [0], "w", (3, 4))[0], normal(0, range(3), "g", (3, 4))
    parameter, optimizer = one(section, start)
    expected, rows, columns = start.clone(), torch.zeros(3), torch.zeros(4)
    for step, gradient in enumerate(gradients, start=1):
        parameter.grad = gradient.clone()
        optimizer.step()
        kept = 1 - step**-0.8
        rows = kept * rows + (1 - kept) * gradient.square().mean(1)
        columns = kept * columns + (1 - kept) * gradient.square().mean(0)
        update = gradient / (torch.outer(rows, columns) / rows.mean()).sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()))
        expected = expected * (1 - 0.2 * 0.1) - 0.1 * update
    assert torch.allclose(parameter, expected, atol=1e-6)


def test_schedule_free_is_its_formula_and_shows_its_average(tmp_path: Path) -> None:
    trainer = make(tmp_path, steps=4, max_grad_norm=None, optimizer=settings("schedule_free_adamw"))
    trainer.run()
    model = Model()
    x, z, v = ({n: p.detach().clone() for n, p in model.named_parameters()} for _ in range(3))
    v = {name: torch.zeros_like(value) for name, value in v.items()}
    for step in range(1, 5):
        y = {name: (0.1 * z[name] + 0.9 * x[name]).requires_grad_() for name in x}
        rows = only(Source().batches(range(4 * step - 4, 4 * step)))
        out = torch.nn.functional.linear(rows.x, y["layer.weight"], y["layer.bias"])
        (out - rows.x.flip(1)).square().mean().backward()  # type: ignore[no-untyped-call]
        for name, at in y.items():
            assert at.grad is not None
            v[name] = 0.999 * v[name] + 0.001 * at.grad.square()
            update = at.grad / ((v[name] / (1 - 0.999**step)).sqrt() + 1e-8) + 0.1 * at.detach()
            z[name] = z[name] - 0.01 * update
            x[name] = (1 - 1 / step) * x[name] + z[name] / step
    now = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    checkpoint = read_checkpoint(RunFolder(tmp_path).checkpoint(4))
    with trainer.evaluating():
        for name, value in x.items():
            assert torch.allclose(trainer.parameters[name], value, atol=1e-5)
            assert torch.equal(trainer.parameters[name], checkpoint.average[name])
            assert not torch.allclose(trainer.parameters[name], now[name], atol=1e-4)
    for name, value in now.items():
        assert torch.equal(trainer.parameters[name], value)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_ends_in_the_same_bytes(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"optimizer": settings(name, warmup_steps=1), "steps": 6}
    straight = make(tmp_path / "straight", **options)
    straight.run()
    with pytest.raises(KeyboardInterrupt):  # with previews, which must leave no trace
        make(tmp_path / "broken", hooks=[killed_at(5)], **options).run()
    resumed = make(tmp_path / "broken", **options)
    assert resumed.resume()
    assert resumed.step == 4
    resumed.run()
    for parameter, value in straight.parameters.items():
        assert torch.equal(resumed.parameters[parameter], value)
    assert (straight.average is None) == (name != "schedule_free_adamw")
    if straight.average and resumed.average:
        for parameter, value in straight.average.values.items():
            assert torch.equal(resumed.average.values[parameter], value)
    states = [_flat(trainer.optimizer.state_dict()["state"]) for trainer in (resumed, straight)]
    assert states[0] == states[1]
    # Every value of the groups, so that none that the library counts is left out.
    for one, other in zip(resumed.optimizer.param_groups, straight.optimizer.param_groups, strict=True):
        assert {k: v for k, v in one.items() if k != "params"} == {
            k: v for k, v in other.items() if k != "params"
        }
    rates = [
        [json.loads(line)["lr"] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("straight", "broken")
    ]
    assert rates[0] == rates[1]
    assert len(rates[0]) == 6


def _flat(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _flat(value) for key, value in state.items()}
    return (state.dtype, state.tolist()) if isinstance(state, Tensor) else state


def test_prodigy_tells_the_learning_rate_it_found(tmp_path: Path) -> None:
    trainer = make(tmp_path, steps=90, batch_size=32, optimizer={"name": "prodigy", "lr": 1, "d0": 1e-4})
    trainer.run()
    rates = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rates == sorted(rates)
    assert rates[0] == 1e-4
    assert 1e-3 < rates[-1] < 1e-1
    assert rates[-1] == optimizer_counters(trainer.optimizer)[0]["d"]


def test_prodigy_s_rate_is_a_factor_that_presets_leave_alone() -> None:
    assert OptimizerSection(name="prodigy").lr == 1
    pictures = Setting("data.instance_dir", "x", "here")
    recipe = build("lora", [pictures, Setting("optimizer.name", "prodigy", "here")])
    for model in ("storybook", "sdxl"):
        assert with_preset(recipe, model).optimizer.lr == 1
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        build("lora", [pictures, Setting("optimizer.name", "prodigy", "here"),
                       Setting("optimizer.lr", 1e-4, "here")])  # fmt: skip


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"name": "adafactor", "betas": (0.9, 0.99)}, "betas"),
        ({"name": "adafactor", "eps": 1e-8}, "eps"),
        ({"name": "lion", "eps": 1e-8}, "eps"),
        ({"name": "adamw", "d_coef": 1.0}, "d_coef"),
        ({"name": "adamw8bit", "d0": 1e-5}, "d0"),
        ({"name": "prodigy", "lr": 1e-4}, "lr"),
        ({"name": "prodigy", "text_encoder_lr": 0.5}, "text_encoder_lr"),
        ({"name": "prodigy", "text_encoder_2_lr": 0.5}, "text_encoder_2_lr"),
        ({"name": "prodigy", "embedding_lr": 0.5}, "embedding_lr"),
        ({"name": "prodigy", "block_lr": {"mid_block": 0.5}}, "block_lr"),
        ({"name": "schedule_free_adamw", "schedule": "cosine"}, "schedule"),
        ({"name": "schedule_free_adamw", "betas": (0.0, 0.99)}, "betas"),
        ({"schedule": "cosine", "schedule_cycles": 2}, "schedule_cycles"),
        ({"schedule": "cosine", "schedule_power": 2.0}, "schedule_power"),
    ],
)
def test_settings_without_effect_are_refused(given: dict[str, Any], key: str) -> None:
    assert [fault.where for fault in OptimizerSection(**given).faults()] == [f"optimizer.{key}"]
    values = [Setting("data.instance_dir", "x", "here"), Setting("adapter.text_encoder", True, "here")]
    values += [Setting(f"optimizer.{name}", value, f"--set {name}") for name, value in given.items()]
    with pytest.raises(ConfigError, match=rf"--set {key}\n"):
        build("lora", values)


@pytest.mark.parametrize("given", [{"name": "prodigy", "block_lr": {"mid_block": 0.0, "up_blocks": 1.0}},
                                   {"name": "prodigy", "lr": 0.5, "text_encoder_lr": 0.5},
                                   {"name": "lion", "betas": (0.95, 0.98)},
                                   {"schedule": "polynomial", "schedule_power": 1.0}])  # fmt: skip
def test_settings_with_an_effect_are_not(given: dict[str, Any]) -> None:
    assert list(OptimizerSection(**given).faults()) == []


def test_two_averages_are_refused() -> None:
    section = OptimizerSection(name="schedule_free_adamw")
    check_trainable(TrainingSection(), section)
    with pytest.raises(ConfigError, match=r"training\.ema"):
        check_trainable(TrainingSection(ema=True), section)


@pytest.mark.parametrize(
    ("name", "library"),
    [("prodigy", "prodigyopt"), ("schedule_free_adamw", "schedulefree"), ("lion", "bitsandbytes")],
)
def test_a_missing_library_is_told_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"needs {library}, .*[\\s\\S]*pip install {library}`"):
        check_trainable(TrainingSection(), OptimizerSection(name=name))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has it")
def test_paging_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="adamw8bit"):
        check_trainable(TrainingSection(), OptimizerSection(name="paged_adamw8bit"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_paging_with_a_gpu_changes_nothing(tmp_path: Path) -> None:
    runs = [make(tmp_path / name, optimizer={"name": name}) for name in ("adamw8bit", "paged_adamw8bit")]
    for run in runs:
        run.run()
    for name, value in runs[0].parameters.items():
        assert torch.equal(runs[1].parameters[name], value)


# Bytes of state for each parameter, as docs/optimizers.md has them.
@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("adamw", (80, 80), 8),
        ("adamw_bf16", (80, 80), 4),
        ("adamw8bit", (80, 80), 2 + 8 / 256),
        ("adamw8bit", (60, 60), 8),
        ("adafactor", (80, 80), 4 * 2 / 80),
        ("adafactor", (32, 32, 3, 3), 8 / 3),
        ("adafactor", (80, 80, 1, 1), 8),
        ("lion", (80, 80), 4),
        ("prodigy", (80, 80), 16),
        ("schedule_free_adamw", (80, 80), 8),
    ],
)
def test_the_state_takes_the_memory_that_the_page_says(
    name: str, shape: tuple[int, ...], expected: float
) -> None:
    parameter, optimizer = one(OptimizerSection(name=name), torch.ones(shape))
    parameter.grad = torch.ones(shape)
    optimizer.step()
    tensors = [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
    # But for the tables of 256 values, which all parameters share, and single numbers.
    held = sum(t.nbytes for t in tensors if t.numel() not in (1, 256))
    assert held / parameter.numel() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_written_to_the_terminal(capfd: pytest.CaptureFixture[str], name: str) -> None:
    parameter, optimizer = one(OptimizerSection(name=name), torch.ones(80, 80))
    parameter.grad = torch.ones(80, 80)
    optimizer.step()
    assert capfd.readouterr() == ("", "")


def _schedules() -> dict[str, tuple[dict[str, Any], Callable[[Any], Any]]]:
    o = optimization
    return {
        "restarts": ({"schedule": "cosine_with_restarts"},
                     lambda opt: o.get_cosine_with_hard_restarts_schedule_with_warmup(opt, 2, 12, 3)),
        "five restarts": ({"schedule": "cosine_with_restarts", "schedule_cycles": 5},
                          lambda opt: o.get_cosine_with_hard_restarts_schedule_with_warmup(opt, 2, 12, 5)),
        "polynomial": ({"schedule": "polynomial"},
                       lambda opt: o.get_polynomial_decay_schedule_with_warmup(opt, 2, 12, power=2)),
        "a line": ({"schedule": "polynomial", "schedule_power": 1},
                   lambda opt: o.get_linear_schedule_with_warmup(opt, 2, 12)),
    }  # fmt: skip


@pytest.mark.parametrize("case", _schedules())
def test_schedules_are_those_of_diffusers(case: str) -> None:
    given, reference = _schedules()[case]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = reference(optimizer)
    factor = rate_factor(OptimizerSection(warmup_steps=2, **given), 12)
    for step in range(12):
        assert factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        schedule.step()


def test_the_cosine_restarts_from_its_top() -> None:
    factor = rate_factor(OptimizerSection(schedule="cosine_with_restarts", schedule_cycles=2), 100)
    assert [factor(step) for step in (0, 25, 50, 75)] == pytest.approx([1, 0.5, 1, 0.5])
    assert factor(49) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.98)))
