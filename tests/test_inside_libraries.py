"""Undocumented behavior of libraries that the package relies on.

A release that changes it fails here. For PEFT, see `tests/adapters/test_peft_inside.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import datasets
import pytest
import torch
from accelerate import Accelerator, PartialState
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.utils import logging as diffusers_logging
from pydantic import BaseModel, ValidationError
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from finetune.backbones.quiet import quiet
from finetune.backbones.words import _end_holders
from finetune.config import OptimizerSection, TrainingSection
from finetune.config.optimizer import RESTARTS_CYCLES
from finetune.recipes.faults import _choices
from finetune.training.average import Average
from finetune.training.device import forget_earlier_runs, make_accelerator
from finetune.training.optimizers import rate_factor


class Chosen(BaseModel):
    one: Literal["a"]
    two: Literal["a", "b"]
    three: Literal["a", "b", "c"]


# --- pydantic --------------------------------------------------------------------------------------


def test_pydantic_tells_the_choices_of_a_setting_in_quotes_one_after_another() -> None:
    with pytest.raises(ValidationError) as caught:
        Chosen.model_validate({"one": "x", "two": "x", "three": "x"})
    found = [_choices(error) for error in caught.value.errors(include_url=False)]
    assert found == [["a"], ["a", "b"], ["a", "b", "c"]]


# --- accelerate ------------------------------------------------------------------------------------


def accelerator(precision: str) -> Accelerator:
    return make_accelerator(TrainingSection(precision=precision), trains_text=False)


def test_accelerate_refuses_another_precision_in_the_same_process() -> None:
    """Otherwise there would be no need for the reset."""
    forget_earlier_runs()
    Accelerator(cpu=True, mixed_precision="bf16")
    with pytest.raises(ValueError, match="already been initialized"):
        Accelerator(cpu=True, mixed_precision="no")
    forget_earlier_runs()


def test_after_the_reset_a_second_run_chooses_another_precision(tmp_path: Path) -> None:
    for precision, called in (("bf16", "bf16"), ("fp32", "no"), ("bf16", "bf16")):
        made = accelerator(precision)
        assert made.mixed_precision == called
        assert made.scaler is None  # only fp16 has one


def test_after_the_reset_the_device_is_asked_for_again(tmp_path: Path) -> None:
    forget_earlier_runs()
    state = PartialState(cpu=True)
    assert state.device.type == "cpu"
    forget_earlier_runs()
    with pytest.raises(AttributeError, match="device"):
        state.device  # noqa: B018


def test_the_reset_leaves_the_processes_joined(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        forget_earlier_runs()
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()


# --- diffusers and torch ---------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"])
def test_a_schedule_that_begins_at_a_step_has_the_rate_of_one_that_came_there(schedule: str) -> None:
    factor = rate_factor(OptimizerSection(schedule=schedule, warmup_steps=3), 20)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    walked = get_scheduler(name, optimizer, num_warmup_steps=3, num_training_steps=20,
                           num_cycles=RESTARTS_CYCLES, power=2.0)  # fmt: skip
    for step in range(20):
        assert factor(step) == walked.get_last_lr()[0]  # to the bit
        optimizer.step()
        walked.step()
    assert factor(7) == factor(7)


def test_an_average_counts_from_the_step_that_it_is_told() -> None:
    """As after a resume: the decay at step t is min(decay, t / (9 + t)), whatever was counted before."""
    parameter = nn.Parameter(torch.zeros(1))
    average = Average({"p": parameter}, decay=0.999)
    with torch.no_grad():
        parameter.fill_(1.0)
    average.update(31)
    assert float(average.values["p"]) == pytest.approx(1 - 31 / 40)
    average.update(1)
    assert float(average.values["p"]) == 1.0


def test_the_values_of_an_average_are_its_own_tensors() -> None:
    average = Average({"p": nn.Parameter(torch.zeros(1))}, decay=0.5)
    average.load({"p": torch.ones(1)})
    with average.in_place():
        assert float(average.values["p"]) == 1.0


def test_settings_that_another_scheduler_has_no_use_for_are_told_unless_quiet(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = dict(DDIMScheduler(set_alpha_to_one=False).config)
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_warning()
    try:
        DDPMScheduler.from_config({**config, "of_another_class": 1})
        assert "of_another_class" in caplog.text
        caplog.clear()
        with quiet():
            DDPMScheduler.from_config({**config, "of_another_class": 1})
        assert caplog.text == ""
        assert diffusers_logging.get_verbosity() == diffusers_logging.WARNING
    finally:
        diffusers_logging.set_verbosity(verbosity)


# --- transformers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
@torch.no_grad()
def test_pooled_text_is_taken_at_the_end_token_that_the_holders_tell(kind: Any) -> None:
    config = CLIPTextConfig(
        vocab_size=10, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=6, projection_dim=8, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    encoder = kind(config).eval()
    tokens = torch.tensor([[0, 9, 5, 7, 1, 1]])

    def place() -> int:
        """The position of the token that it was pooled from."""
        made = encoder(tokens)
        rows = made.last_hidden_state[0]
        if kind is CLIPTextModel:
            pooled = made.pooler_output
        else:
            rows, pooled = encoder.text_projection(rows), made.text_embeds
        return int((rows - pooled).abs().sum(1).argmin())

    assert place() == 1  # an old configuration: the highest id, which a new word would have
    for holder in _end_holders(encoder):
        holder.eos_token_id = 7
    assert place() == 3
    assert encoder.config.eos_token_id == 7


# --- datasets ---------------------------------------------------------------------------------------


def test_datasets_asks_its_offline_switch_before_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other ways to say so are read when it is imported."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="OfflineModeIsEnabled"):
        datasets.load_dataset_builder("someone/cats")


def test_a_builder_of_datasets_is_known_by_the_module_of_its_format(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n")
    made = datasets.load_dataset_builder(
        "csv", data_files=str(tmp_path / "rows.csv"), cache_dir=str(tmp_path)
    )
    assert type(made).__module__ == "datasets.packaged_modules.csv.csv"
