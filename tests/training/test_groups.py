"""Learning rates by part and block, frozen blocks, and text encoders that stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finetune.adapters import Full, LoRA
from finetune.adapters.base import ParameterGroup
from finetune.backbones import Backbone
from finetune.config import FullSection, LoRASection, OptimizerSection, TrainingSection
from finetune.diffusion.random import normal
from finetune.errors import ConfigError
from finetune.recipes import build
from finetune.recipes.load import Setting, parse_set
from finetune.training import RunFolder, Trainer
from finetune.training.groups import rate_groups
from tests.tiny import Family
from tests.training.test_optimizers import NAMES, settings
from tests.training.test_trainer import Rows, Source, killed_at

UNET = ("down_blocks.0.to_q", "down_blocks.1.to_q", "down_blocks.1.to_k", "mid_block.to_q")
TEXT = {"text_encoder": "text_encoder.layers.0", "text_encoder_2": "text_encoder_2.layers.0",
        "embedding": "embedding.text_encoder"}  # fmt: skip


class Parts(nn.Module):
    """Matrices with the names of an adapter's parameters; all of them matter to the result."""

    def __init__(self) -> None:
        super().__init__()
        names = [*(f"unet.{name}" for name in UNET), *TEXT.values()]
        self.all = {name: nn.Parameter(0.1 * normal(1, [k], name, (80, 80))[0] + torch.eye(80))
                    for k, name in enumerate(names)}  # fmt: skip
        for name, parameter in self.all.items():
            self.register_parameter(name.replace(".", "-"), parameter)

    def forward(self, x: Tensor) -> Tensor:
        for parameter in self.all.values():
            x = x @ parameter
        return x

    def groups(self) -> list[ParameterGroup]:
        roots = {"unet": "unet.", "text_encoder": "text_encoder", "embedding": "embedding."}
        return [ParameterGroup(group, tuple((n, p) for n, p in self.all.items() if n.startswith(root)))
                for group, root in roots.items()]  # fmt: skip

    def set_samples(self, numbers: Sequence[int], seed: int) -> None:
        pass

    def faster(self, pack: bool, fuse: bool) -> AbstractContextManager[None]:
        return nullcontext()


def loss(model: nn.Module, rows: Rows) -> Tensor:
    out: Tensor = (model(rows.x) - rows.x.flip(1)).square().mean(1)
    return out


def trainer(folder: Path, optimizer: dict[str, Any], *, hooks: Any = (), **training: Any) -> Trainer[Rows]:
    values = {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "log_every": 1} | training
    return Trainer(Parts(), loss, Source(), TrainingSection(**values),
                   OptimizerSection(**{"lr": 0.01, "weight_decay": 0} | optimizer), RunFolder(folder),
                   hooks=hooks)  # fmt: skip


def moved(model: Any) -> dict[str, float]:
    """The median of how far each parameter's values moved."""
    start = Parts().all
    return {name: float((p - start[name]).detach().abs().median()) for name, p in model.all.items()}


def names(groups: Any) -> dict[str, tuple[float, int | None]]:
    return {name: (group.rate, group.stop) for group in groups for name, _ in group.parameters}


RATES = {
    "text_encoder_lr": 0.002,
    "text_encoder_2_lr": 0.004,
    "embedding_lr": 0.03,
    "block_lr": {"down_blocks": 0.5, "down_blocks.1": 0.1, "down_blocks.1.to_k": 0, "mid_block": 2},
}


def test_parts_and_blocks_move_at_their_own_rates(tmp_path: Path) -> None:
    # Adam's first step is the learning rate in the direction of the gradient's sign.
    run = trainer(tmp_path, RATES, steps=1)
    run.run()
    expected = {"unet.down_blocks.0.to_q": 0.005, "unet.down_blocks.1.to_q": 0.001,
                "unet.down_blocks.1.to_k": 0.0, "unet.mid_block.to_q": 0.02, TEXT["text_encoder"]: 0.002,
                TEXT["text_encoder_2"]: 0.004, TEXT["embedding"]: 0.03}  # fmt: skip
    assert moved(run.trained) == pytest.approx(expected, rel=1e-3)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert {key: value for key, value in line.items() if key.startswith("lr")} == pytest.approx(
        {"lr_down_blocks": 0.005, "lr_down_blocks.1": 0.001, "lr_mid_block": 0.02, "lr_text_encoder": 0.002,
         "lr_text_encoder_2": 0.004, "lr_embedding": 0.03}
    )  # fmt: skip


def test_without_settings_there_is_one_rate(tmp_path: Path) -> None:
    run = trainer(tmp_path, {}, steps=1)
    run.run()
    assert moved(run.trained) == pytest.approx(dict.fromkeys(Parts().all, 0.01), rel=1e-3)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["lr"] == line["lr_text_encoder"] == 0.01


def test_the_second_encoder_follows_the_first(tmp_path: Path) -> None:
    rates = names(rate_groups(Parts().groups(), OptimizerSection(text_encoder_lr=0.5), 10))
    assert rates[TEXT["text_encoder"]] == rates[TEXT["text_encoder_2"]] == (0.5, None)
    assert rates[TEXT["embedding"]] == (1e-4, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_factor_of_0_freezes_to_the_bit(tmp_path: Path, name: str) -> None:
    run = trainer(tmp_path, settings(name, block_lr={"down_blocks.1": 0}))
    run.run()
    model: Any = run.trained
    frozen = {key for key, distance in moved(model).items() if distance == 0}
    assert frozen == {"unet.down_blocks.1.to_q", "unet.down_blocks.1.to_k"}
    for key in frozen:
        assert torch.equal(model.all[key], Parts().all[key])
        assert model.all[key].grad is None
        assert key not in run.parameters


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stop", [2, 0.5])
def test_text_encoders_stay_to_the_bit_after_their_stop(tmp_path: Path, name: str, stop: float) -> None:
    seen: list[dict[str, Tensor]] = []

    def look(step: int) -> None:  # at what previews and exports show
        seen.append({key: p.detach().clone() for key, p in straight.parameters.items()})

    given = settings(name, text_encoder_stop=stop)
    straight = trainer(tmp_path / "straight", given, hooks=[(1, look)], steps=4)
    straight.run()
    for key in straight.parameters:
        same = [torch.equal(now[key], then[key]) for now, then in zip(seen[1:], seen, strict=False)]
        assert same == [False, not key.startswith("unet."), not key.startswith("unet.")], key
    # A run that is resumed after the stop goes on like that.
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "broken", given, hooks=[killed_at(3)], steps=4).run()
    resumed = trainer(tmp_path / "broken", given, steps=4)
    assert resumed.resume()
    assert resumed.step == 2
    resumed.run()
    for key, value in straight.parameters.items():
        assert torch.equal(resumed.parameters[key], value), key
    lines = [json.loads(line) for line in (tmp_path / "straight/metrics.jsonl").read_text().splitlines()]
    assert [line["lr_embedding"] > 0 for line in lines] == [True, True, False, False]
    assert [line["lr"] > 0 for line in lines] == [True] * 4


def test_the_stop_changes_nothing_before_it(tmp_path: Path) -> None:
    runs = [trainer(tmp_path / str(stop), {"text_encoder_stop": stop}, steps=4) for stop in (3, None)]
    for run in runs:
        run.hooks = [killed_at(3)]
        with pytest.raises(KeyboardInterrupt):
            run.run()
    for key, value in runs[0].parameters.items():
        assert torch.equal(runs[1].parameters[key], value)


def test_blocks_of_real_models(backbone: Backbone, family: Family) -> None:
    section = OptimizerSection(
        lr=1.0, text_encoder_lr=0.25, block_lr={"up_blocks": 0.5, "up_blocks.0": 0.125, "mid_block": 0}
    )
    rules = {"unet.up_blocks.0.": 0.125, "unet.up_blocks.": 0.5, "unet.mid_block.": 0.0, "unet.": 1.0,
             "text_encoder": 0.25}  # fmt: skip
    for adapter in (
        LoRA(backbone, LoRASection(rank=2, targets="all", conv_rank=2, text_encoder=True)),
        Full(backbone, FullSection(text_encoder=True)),
    ):
        groups = rate_groups(adapter.groups(), section, 10)
        rates = names(groups)
        for name in adapter.trained():
            expected = next(rate for rule, rate in rules.items() if name.startswith(rule))
            assert rates.get(name, (0.0, None))[0] == expected, name
        assert {group.name for group in groups} >= {"", "up_blocks", "up_blocks.0", "text_encoder"}
        assert ("text_encoder_2" in {group.name for group in groups}) == (family == "sdxl")
        if isinstance(adapter, LoRA):
            adapter.detach()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"block_lr": {"down_blocks.2": 0.5}}, r"(?s)down_blocks\.2.*optimizer\.block_lr.*down_blocks\.[01]"),
        ({"block_lr": {"down_block": 0.5}}, "Did you mean down_blocks"),
        ({"block_lr": {"down_blocks.1.to": 0.5}}, r"down_blocks\.1\.to_"),
        ({"block_lr": {"text_encoder": 0.5}}, r"optimizer\.block_lr"),
    ],
)
def test_a_block_that_is_not_there_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rate_groups(Parts().groups(), OptimizerSection(**given), 10)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"text_encoder_lr": 1e-3}, "text_encoder_lr"),
        ({"text_encoder_2_lr": 1e-3}, "text_encoder_2_lr"),
        ({"embedding_lr": 1e-3}, "embedding_lr"),
        ({"text_encoder_stop": 5}, "text_encoder_stop"),
        ({"block_lr": {"down_blocks": 0, "mid_block": 0}}, "block_lr"),
    ],
)
def test_settings_of_what_is_not_trained_are_refused(given: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.{key}"):
        rate_groups(Parts().groups()[:1], OptimizerSection(**given), 10)


def test_a_run_that_would_go_on_with_nothing_to_train_is_refused() -> None:
    text = Parts().groups()[1:]
    with pytest.raises(ConfigError, match="text_encoder_stop"):
        rate_groups(text, OptimizerSection(text_encoder_stop=0.5), 10)
    assert rate_groups(text, OptimizerSection(text_encoder_stop=1.0), 10)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "[1]"])
def test_a_stop_is_a_step_or_a_share(text: str) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.text_encoder_stop"):
        build("lora", [parse_set(f"optimizer.text_encoder_stop={text}")])


def test_shares_are_of_the_run() -> None:
    assert [OptimizerSection(text_encoder_stop=s).stop_step(400) for s in (0.25, 1.0, 1, 30, None)] == [
        100, 400, 1, 30, None]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "knows"), [({}, False), ({"text_encoder_stop": 30}, False), ({"text_encoder_stop": 0.5}, True),
                         ({"schedule": "cosine"}, True)]
)  # fmt: skip
def test_a_share_ties_the_run_to_its_length(given: dict[str, Any], knows: bool) -> None:
    assert OptimizerSection(**given).knows_length is knows


def test_a_stop_after_the_end_is_refused() -> None:
    given = [Setting("data.instance_dir", "x", "here"), parse_set("adapter.text_encoder=true")]
    with pytest.raises(ConfigError, match="the run has 100"):
        build("lora", [*given, parse_set("training.steps=100"), parse_set("optimizer.text_encoder_stop=100")])


def test_a_map_of_blocks_is_read_from_the_command_line_and_written(tmp_path: Path) -> None:
    given = [Setting("data.instance_dir", "x", "here")]
    recipe = build("lora", [*given, parse_set("optimizer.block_lr={down_blocks.0: 0.5, mid_block: 0}")])
    assert recipe.optimizer.block_lr == {"down_blocks.0": 0.5, "mid_block": 0.0}
    recipe.save_in(RunFolder(tmp_path))
    assert "mid_block: 0.0" in RunFolder(tmp_path).recipe.read_text()
    for wrong in ("{mid_block: -1}", "{mid_block: 100}", "mid_block", "{mid_block: x}"):
        with pytest.raises(ConfigError, match=r"optimizer\.block_lr"):
            build("lora", [*given, parse_set(f"optimizer.block_lr={wrong}")])
