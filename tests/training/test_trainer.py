"""The loop: resume to the bit, accumulation, averages, guards, interruption."""

from __future__ import annotations

import json
import math
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from diffusers.optimization import get_cosine_schedule_with_warmup
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from finetune.adapters.base import ParameterGroup
from finetune.config import OptimizerSection, TrainingSection
from finetune.data.buckets import Order
from finetune.diffusion.random import normal
from finetune.errors import ConfigError, Interrupted, NonFiniteLoss, WeightsError
from finetune.files import sha256_of
from finetune.training import RunFolder, Trainer
from finetune.training.checkpoint import read_checkpoint, write_checkpoint
from tests.tiny import only


@dataclass(frozen=True)
class Rows:
    numbers: tuple[int, ...]
    names: tuple[str, ...]
    x: Tensor

    learned: tuple[bool, ...] = (True,) * 4

    def to(self, device: torch.device | str) -> Rows:
        return replace(self, x=self.x.to(device))


class Source:
    def batches(self, numbers: Sequence[int]) -> list[Rows]:
        names, x = tuple(f"{n}.png" for n in numbers), normal(0, numbers, "x", (80,))
        return [Rows(tuple(numbers), names, x, (True,) * len(numbers))]


class Model(nn.Module):
    """Large enough (80 x 80) for bitsandbytes to keep its state in 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(80, 80)
        with torch.no_grad():
            self.layer.weight.copy_(0.1 * normal(0, [0], "weight", (80, 80))[0])
            self.layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out

    def groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("unet", tuple(self.named_parameters()))]

    def set_samples(self, numbers: Sequence[int], seed: int) -> None:
        pass

    def faster(self, pack: bool, fuse: bool) -> AbstractContextManager[None]:
        return nullcontext()


def mirror_loss(model: nn.Module, rows: Rows) -> Tensor:
    loss: Tensor = (model(rows.x) - rows.x.flip(1)).square().mean(1)
    return loss


def make(folder: Path, *, optimizer: dict[str, Any] | None = None, objective: Any = mirror_loss,
         hooks: Sequence[tuple[int, Callable[[int], None]]] = (), identity: dict[str, Any] | None = None,
         **training: Any) -> Trainer[Rows]:  # fmt: skip
    settings = {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "log_every": 1} | training
    return Trainer(
        Model(),
        objective,
        Source(),
        TrainingSection(**settings),
        OptimizerSection(**{"lr": 0.01} | (optimizer or {})),
        RunFolder(folder),
        hooks=hooks,
        identity=identity,
    )


def take_steps(count: int, model: Model, optimizer: torch.optim.Optimizer) -> None:
    """The first steps of a run of `make`, written out."""
    for step in range(count):
        loss = mirror_loss(model, only(Source().batches(range(4 * step, 4 * step + 4)))).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()


def killed_at(step: int) -> tuple[int, Callable[[int], None]]:
    def kill(now: int) -> None:
        if now == step:
            raise KeyboardInterrupt

    return 1, kill


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_a_resumed_run_ends_in_the_same_bytes(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {
        "optimizer": {"name": name, "schedule": "cosine", "warmup_steps": 1}, "ema": True,
    }  # fmt: skip
    straight = make(tmp_path / "straight", **options)
    straight.run()
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "broken", hooks=[killed_at(3)], **options).run()
    resumed = make(tmp_path / "broken", **options)
    assert resumed.resume()
    assert resumed.step == 2
    resumed.run()
    for parameter, value in straight.parameters.items():
        assert torch.equal(resumed.parameters[parameter], value)
        assert straight.average is not None
        assert resumed.average is not None
        assert torch.equal(resumed.average.values[parameter], straight.average.values[parameter])
    lines = (tmp_path / "broken/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_accumulated_batches_equal_one_batch(tmp_path: Path) -> None:
    whole, parts = make(tmp_path / "a", batch_size=4), make(tmp_path / "b", batch_size=1, accumulation=4)
    whole.run()
    parts.run()
    for name, value in whole.parameters.items():
        assert torch.allclose(parts.parameters[name], value, atol=1e-6)


@pytest.mark.parametrize(("size", "accumulation"), [(4, 1), (1, 4), (2, 2)])
def test_the_first_loss_and_gradient_are_those_written_out(
    tmp_path: Path, size: int, accumulation: int
) -> None:
    """The mean over rows of |Wx + b - flip(x)|²/80; Adam's steps would be the same of any multiple."""
    seen: list[Tensor] = []
    trainer = make(tmp_path, steps=1, batch_size=size, accumulation=accumulation, max_grad_norm=0.01)
    after = trainer.optimizer.step
    grads = (p.grad for p in trainer.parameters.values() if p.grad is not None)
    trainer.optimizer.step = lambda: (seen.extend(g.clone() for g in grads), after())  # type: ignore[method-assign]
    trainer.run()
    told = json.loads((tmp_path / "metrics.jsonl").read_text())

    x = normal(0, range(4), "x", (80,))
    error = x @ Model().layer.weight.detach().T - x.flip(1)
    gradients = 2 / 80 * error.T @ x / 4, 2 / 80 * error.mean(0)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert told["loss"] == pytest.approx(float(error.square().mean()), rel=1e-5)
    assert told["grad_norm"] == pytest.approx(norm, rel=1e-5)
    for clipped, gradient in zip(seen, gradients, strict=True):
        torch.testing.assert_close(clipped, gradient * 0.01 / norm, rtol=1e-4, atol=1e-8)


def test_a_step_is_adamw_on_the_mean_loss(tmp_path: Path) -> None:
    trainer = make(tmp_path, steps=3, max_grad_norm=0.5, optimizer={"weight_decay": 0.1})
    trainer.run()
    model = Model()
    take_steps(3, model, torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1))
    for name, value in model.named_parameters():
        assert torch.allclose(trainer.parameters[name], value, atol=1e-6)


@pytest.mark.parametrize("decay", [0.2, 0.4])  # reached from the third step on, and not at all
def test_the_average_is_its_closed_form(tmp_path: Path, decay: float) -> None:
    seen: list[Tensor] = []
    trainer = make(tmp_path, steps=5, ema=True, ema_decay=decay)
    after = trainer.optimizer.step
    trainer.optimizer.step = lambda: (after(), seen.append(trainer.parameters["layer.bias"].detach().clone()))  # type: ignore[method-assign]
    trainer.run()
    # Unrolled: each step's weight is (1 - its decay) times the decays of all later steps.
    decays = [0.0] + [min(decay, t / (9 + t)) for t in range(2, 6)]
    weights = [(1 - d) * math.prod(decays[k + 1 :]) for k, d in enumerate(decays)]
    expected = sum(w * value for w, value in zip(weights, seen, strict=True))
    assert trainer.average is not None
    assert torch.allclose(trainer.average.values["layer.bias"], expected, atol=1e-6)
    now = trainer.parameters["layer.bias"].detach().clone()
    with trainer.evaluating():
        assert torch.allclose(trainer.parameters["layer.bias"], expected, atol=1e-6)
    assert torch.equal(trainer.parameters["layer.bias"], now)


def test_the_learning_rate_follows_the_schedule(tmp_path: Path) -> None:
    make(tmp_path, steps=6, optimizer={"schedule": "cosine", "warmup_steps": 2}).run()
    logged = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, 2, 6)
    expected = []
    for _ in range(6):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert logged == pytest.approx(expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_file(tmp_path: Path, bad: float) -> None:
    def broken(model: nn.Module, rows: Rows) -> Tensor:
        factor = torch.tensor([bad if n == 13 else 1.0 for n in rows.numbers])
        return mirror_loss(model, rows) * factor

    trainer = make(tmp_path, objective=broken)
    with pytest.raises(NonFiniteLoss, match=r"(?s)step 4, on 13\.png.*step-000002"):
        trainer.run()
    assert RunFolder(tmp_path).latest() == tmp_path / "checkpoints/step-000002"


def test_an_interrupt_writes_a_checkpoint_first(tmp_path: Path) -> None:
    def interrupt(model: nn.Module, rows: Rows) -> Tensor:
        signal.raise_signal(signal.SIGINT)
        return mirror_loss(model, rows)

    with pytest.raises(Interrupted, match="--resume"):
        make(tmp_path, objective=interrupt).run()
    assert RunFolder(tmp_path).latest() == tmp_path / "checkpoints/step-000001"


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    make(tmp_path, steps=8, keep_checkpoints=2).run()
    assert [f.name for f in RunFolder(tmp_path).checkpoints()] == ["step-000006", "step-000008"]


def test_other_settings_are_not_resumed(tmp_path: Path) -> None:
    make(tmp_path, identity={"steps": 4, "rank": 8}).run()
    with pytest.raises(ConfigError, match="rank"):
        make(tmp_path, identity={"steps": 4, "rank": 16}).resume()


def put(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "state.json").write_text(text)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "weights.safetensors").write_bytes(b"half a file"),
        lambda folder: (folder / "optimizer.safetensors").unlink(),
        lambda folder: (folder / "SHA256SUMS").unlink(),
        lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "more").touch(),
        *(put(text) for text in ("", "null", '"2"', "[]", '{"step": 3}')),
    ],
)
def test_a_damaged_checkpoint_is_stepped_over(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    make(tmp_path).run()
    damage(tmp_path / "checkpoints/step-000004")
    resumed = make(tmp_path)
    assert resumed.resume()
    assert resumed.step == 2
    assert "step-000004" in resumed.notes[0]
    names = {folder.name for folder in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-000002", "step-000004.damaged"}
    (tmp_path / "checkpoints/step-000002/weights.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="step-000002"):
        make(tmp_path).resume()


@pytest.mark.parametrize("step", ["3", "0", "-1", "true", "99", str(10**30), '"4"', "4.0"])
def test_a_checkpoint_with_a_wrong_step_is_damaged(tmp_path: Path, step: str) -> None:
    make(tmp_path).run()
    folder = tmp_path / "checkpoints/step-000004"
    state = (folder / "state.json").read_text().replace('"step": 4', f'"step": {step}')
    (folder / "state.json").write_text(state)
    # The digests agree: whoever wrote this meant it.
    sums = [f"{sha256_of(f)}  {f.name}\n" for f in folder.iterdir() if f.name != "SHA256SUMS"]
    (folder / "SHA256SUMS").write_text("".join(sums))
    with pytest.raises(WeightsError, match="damaged"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight[:1, :1],
        lambda weight: weight.int(),
        lambda weight: weight.double(),
        lambda weight: weight[:40],
    ],
)
def test_weights_of_another_shape_or_type_are_refused(
    tmp_path: Path, change: Callable[[Tensor], Tensor]
) -> None:
    make(tmp_path).run()
    path = RunFolder(tmp_path).checkpoint(4)
    saved = read_checkpoint(path)
    write_checkpoint(
        path,
        replace(saved, weights={**saved.weights, "layer.weight": change(saved.weights["layer.weight"])}),
    )
    with pytest.raises(WeightsError, match=r"layer\.weight"):
        make(tmp_path).resume()


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    make(tmp_path).run()
    path = RunFolder(tmp_path).checkpoint(4)
    saved = read_checkpoint(path)
    weights = {name: value for name, value in saved.weights.items() if name != "layer.weight"}
    write_checkpoint(path, replace(saved, weights=weights))
    with pytest.raises(WeightsError, match=r"layer\.weight is missing, not float32 \["):
        make(tmp_path).resume()


def test_nothing_that_is_not_finite_is_saved(tmp_path: Path) -> None:
    # The loss of the second step is still finite; its weights no longer are.
    options: dict[str, Any] = {"optimizer": {"lr": 10.0, "weight_decay": 1e38}, "checkpoint_every": 1}
    with pytest.raises(NonFiniteLoss, match=r"(?s)at step \d+.*no checkpoint yet"):
        make(tmp_path, **options).run()
    assert RunFolder(tmp_path).checkpoints() == []


def test_fewer_steps_than_were_taken_are_refused(tmp_path: Path) -> None:
    make(tmp_path).run()
    with pytest.raises(ConfigError, match=r"4 steps already.*3"):
        make(tmp_path, steps=3).resume()


def test_an_interrupted_run_ends_with_the_checkpoints_of_one_that_was_not(tmp_path: Path) -> None:
    def interrupt(model: nn.Module, rows: Rows) -> Tensor:
        if trainer.step == 4:
            signal.raise_signal(signal.SIGINT)
        return mirror_loss(model, rows)

    make(tmp_path / "straight", steps=7).run()
    trainer = make(tmp_path / "broken", steps=7, objective=interrupt)
    with pytest.raises(Interrupted):
        trainer.run()
    resumed = make(tmp_path / "broken", steps=7)
    assert resumed.resume()
    assert resumed.step == 5
    resumed.run()
    kept = [[f.name for f in RunFolder(tmp_path / run).checkpoints()] for run in ("straight", "broken")]
    assert kept[0] == kept[1] == ["step-000006", "step-000007"]


@pytest.mark.parametrize(("every", "left"), [(1, [1, 2, 3, 4]), (2, [2, 4])])
def test_a_preview_lost_between_checkpoint_and_kill_is_made_on_resume(
    tmp_path: Path, every: int, left: list[int]
) -> None:
    made: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, hooks=[killed_at(every)], checkpoint_every=every).run()
    resumed = make(tmp_path, hooks=[(every, made.append)], checkpoint_every=every)
    assert resumed.resume()
    resumed.run()
    assert made == left


def test_metrics_that_cannot_be_read_are_begun_anew(tmp_path: Path) -> None:
    make(tmp_path).run()
    (tmp_path / "metrics.jsonl").write_bytes(b'\xff\x00\n{"step": "2"}\n[]\n{"step": 1, "loss": 1}\n{"st')
    resumed = make(tmp_path)
    assert resumed.resume()
    resumed.run()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": "2"}\n{"step": 1, "loss": 1}\n'


def scaled(trainer: Trainer[Rows]) -> Trainer[Rows]:
    """The trainer with a loss scale, which accelerate makes only for fp16 on a GPU."""
    scaler = torch.amp.GradScaler("cpu")
    trainer.optimizer = AcceleratedOptimizer(trainer.optimizer.optimizer, scaler=scaler)
    trainer.accelerator.scaler, trainer.accelerator._optimizers = scaler, [trainer.optimizer]
    return trainer


def steep_loss(model: nn.Module, rows: Rows) -> Tensor:
    """Finite, but its gradient is not."""
    loss: Tensor = (0 * model(rows.x)).abs().sqrt().mean(1)
    return loss


@pytest.mark.parametrize(("steps", "told"), [(4, "last 4 steps"), (100, "last 26 steps")])
def test_fp16_that_learns_nothing_is_told(tmp_path: Path, steps: int, told: str) -> None:
    trainer = scaled(make(tmp_path, steps=steps, objective=steep_loss, checkpoint_every=100))
    with pytest.raises(NonFiniteLoss, match=f"{told} were too large for fp16"):
        trainer.run()
    assert RunFolder(tmp_path).checkpoints() == []


def test_a_step_that_fp16_skips_is_null_in_the_metrics(tmp_path: Path) -> None:
    def once(model: nn.Module, rows: Rows) -> Tensor:
        return (steep_loss if trainer.step == 0 else mirror_loss)(model, rows)

    trainer = scaled(make(tmp_path, objective=once))
    trainer.run()
    lines = [
        json.loads(line, parse_constant=pytest.fail)
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["grad_norm"] is None for line in lines] == [True, False, False, False]


def test_the_loss_scale_is_resumed(tmp_path: Path) -> None:
    def once(model: nn.Module, rows: Rows) -> Tensor:
        return (steep_loss if before.step == 0 else mirror_loss)(model, rows)

    before = scaled(make(tmp_path, objective=once))
    before.run()
    # One overflow halves 65,536; three steps have gone well since.
    assert read_checkpoint(RunFolder(tmp_path).checkpoint(4)).scaler["scale"] == 32768
    after = scaled(make(tmp_path))
    assert after.resume()
    state = after.accelerator.scaler.state_dict()
    assert (state["scale"], state["_growth_tracker"]) == (32768, 3)


def test_hooks_run_when_due_and_at_the_end(tmp_path: Path) -> None:
    steps: list[int] = []
    make(tmp_path, steps=5, hooks=[(2, steps.append), (0, steps.append)]).run()
    assert steps == [2, 4, 5]


def test_bf16_on_a_cpu_keeps_fp32_parameters(tmp_path: Path) -> None:
    trainer = make(tmp_path, precision="bf16")
    trainer.run()
    assert {p.dtype for p in trainer.parameters.values()} == {torch.float32}
    exact = make(tmp_path / "exact")
    exact.run()
    rounded, whole = (t.parameters["layer.weight"].detach() for t in (trainer, exact))
    # Where Adam's gradient is near 0, rounding can turn a step of 0.01 around.
    assert 0 < float((rounded - whole).abs().max()) < 0.05


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can train in fp16")
def test_fp16_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a GPU"):
        make(tmp_path, precision="fp16")


def test_tensorboard_files_are_written(tmp_path: Path) -> None:
    make(tmp_path, trackers=["tensorboard"]).run()
    assert list((tmp_path / "logs" / "tensorboard").glob("events.out.tfevents*"))


def test_the_loss_of_what_is_learned_is_told_apart(tmp_path: Path) -> None:
    class Mixed(Source):
        def batches(self, numbers: Sequence[int]) -> list[Rows]:
            rows = only(super().batches(numbers))
            return [replace(rows, learned=tuple(n % 3 == 0 for n in numbers))]

    plain, trainer = make(tmp_path / "plain", batch_size=2), make(tmp_path / "mixed", batch_size=2)
    trainer.source = Mixed()
    plain.run()
    trainer.run()
    for name, value in plain.parameters.items():
        assert torch.equal(trainer.parameters[name], value)  # what is told changes nothing
    lines = [json.loads(line) for line in (tmp_path / "mixed/metrics.jsonl").read_text().splitlines()]
    # Numbers 0-1, 2-3, 4-5, 6-7: the third step has no row of what is learned.
    assert ["loss" in line for line in lines] == [True, True, False, True]
    first = mirror_loss(Model(), only(Source().batches([0, 1]))).tolist()
    assert (lines[0]["loss"], lines[0]["preserved_loss"]) == pytest.approx(tuple(first))


@settings(max_examples=100, deadline=None)
@given(
    *(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3)),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=1, max_size=12),
)
def test_an_epoch_shows_each_item_as_often_as_it_repeats_however_a_step_is_split(
    batch_size: int, accumulation: int, processes: int, seed: int, items: list[tuple[int, int]]
) -> None:
    training = TrainingSection(batch_size=batch_size, accumulation=accumulation)
    step = training.samples_per_step(processes)
    repeats = [often for _, often in items]
    order = Order([(8, 8 + 8 * shape) for shape, _ in items], repeats, step, seed)
    epochs = 3
    seen: list[int] = []
    for number in range(-(-epochs * len(order) // step)):
        numbers = [
            n
            for process in range(processes)
            for rows in Trainer._batches(split(training, process, processes), number)
            for n in rows.numbers
        ]
        assert len(set(numbers)) == len(numbers) == step  # no process sees what another does
        seen += sorted(numbers)
    for epoch in range(epochs):
        shown = Counter(order.item(n) for n in seen[epoch * len(order) : (epoch + 1) * len(order)])
        assert [shown[item] for item in range(len(items))] == repeats


def split(training: TrainingSection, process: int, processes: int) -> Any:
    """As much of a trainer as says which samples its process sees."""
    accelerator = SimpleNamespace(num_processes=processes, process_index=process, device="cpu")
    rows = training.samples_per_step(processes)
    return SimpleNamespace(training=training, accelerator=accelerator, rows_per_step=rows, source=Source())
