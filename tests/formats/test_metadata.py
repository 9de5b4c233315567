"""What exported files say of themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from finetune.backbones import Backbone
from finetune.config import (
    DataSection,
    LoRASection,
    ModelSection,
    ObjectiveSection,
    OptimizerSection,
    TrainingSection,
)
from finetune.formats import DataFacts, run_metadata

FACTS = DataFacts("mycat", "abc123", ["a photo of mycat", "a photo of mycat, on snow"])


def recipe(**changes: dict[str, Any]) -> dict[str, Any]:
    training = {"steps": 30, "batch_size": 2, "accumulation": 2, "precision": "fp32", "seed": 11}
    sections = {
        "model": ModelSection(name="storybook"),
        "data": DataSection(**changes.get("data", {})),
        "adapter": LoRASection(**changes.get("adapter", {})),
        "objective": ObjectiveSection(**changes.get("objective", {})),
        "optimizer": OptimizerSection(
            **{"lr": 0.001, "text_encoder_lr": 0.0001} | changes.get("optimizer", {})
        ),
        "training": TrainingSection(**training | changes.get("training", {})),
    }
    return {"kind": "lora"} | {name: section.model_dump(mode="json") for name, section in sections.items()}


def test_names_that_tools_read(backbone: Backbone) -> None:
    told = run_metadata(recipe(), backbone, FACTS, name="mycat-lora", step=20)
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in told.items())
    family = {
        "sd1": ("sd_v1", "stable-diffusion-v1/lora", "epsilon", "diffusers"),
        "sd2": ("sd_v2_v", "stable-diffusion-v2-768-v/lora", "v", "diffusers"),
        "sdxl": (
            "sdxl_base_v1-0",
            "stable-diffusion-xl-v1-base/lora",
            "epsilon",
            "https://github.com/Stability-AI/generative-models",
        ),
    }[backbone.family]
    keys = ("ss_base_model_version", "modelspec.architecture", "modelspec.prediction_type")
    assert tuple(told[key] for key in (*keys, "modelspec.implementation")) == family
    expected = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": "mycat-lora",
        "modelspec.resolution": "32x32",
        "ss_output_name": "mycat-lora",
        "ss_sd_model_name": "storybook",
        "ss_resolution": "(32, 32)",
        "ss_learning_rate": "0.001",
        "ss_unet_lr": "0.001",
        "ss_num_train_images": "2",
        "ss_total_batch_size": "4",
        "ss_max_train_steps": "30",
        "ss_num_epochs": "60",
        "ss_epoch": "40",
        "ss_steps": "20",
        "ss_seed": "11",
        "ss_mixed_precision": "no",
        "ss_optimizer": "torch.optim.adamw.AdamW",
        "ss_lr_scheduler": "constant",
        "finetune.step": "20",
        "finetune.data_digest": "abc123",
    }
    assert {key: told[key] for key in expected} == expected
    assert json.loads(told["ss_dataset_dirs"]) == {"mycat": {"img_count": 2, "n_repeats": 1}}
    assert json.loads(told["ss_tag_frequency"]) == {"mycat": {"a photo of mycat": 2, "on snow": 1}}
    assert json.loads(told["finetune.recipe"]) == recipe()
    assert json.loads(told["finetune.versions"])["torch"] == torch.__version__
    assert "ss_text_encoder_lr" not in told and "modelspec.trigger_phrase" not in told
    assert not any("date" in key or "time" in key for key in told)  # the same bytes on any day


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_what_is_told_only_if_so(backbone: Backbone) -> None:
    facts = DataFacts("mycat", "abc", ["a photo of mycat"] * 3)
    told = run_metadata(recipe(adapter={"text_encoder": True}), backbone, facts, name="x", step=1)
    assert told["ss_text_encoder_lr"] == "0.0001"
    assert told["modelspec.trigger_phrase"] == "a photo of mycat"


HUBER = {"ss_loss_type": "huber", "ss_huber_c": "0.1", "ss_huber_schedule": "snr"}
SMOOTH = {"ss_loss_type": "smooth_l1", "ss_huber_c": "0.2", "ss_huber_schedule": "constant"}
PYRAMID = {"ss_multires_noise_discount": "0.3", "ss_multires_noise_iterations": "6"}


# Each name is sd-scripts' own, from `train_network.py`.
@pytest.mark.parametrize(
    ("section", "settings", "said"),
    [
        ("objective", {"loss": "l1"}, {"ss_loss_type": "l1"}),
        ("objective", {"loss": "huber"}, HUBER),
        ("objective", {"loss": "smooth_l1", "huber_c": 0.2, "huber_schedule": "constant"}, SMOOTH),
        ("objective", {"weighting": "min_snr"}, {"ss_min_snr_gamma": "5.0"}),
        ("objective", {"weighting": "min_snr", "min_snr_gamma": 2.0}, {"ss_min_snr_gamma": "2.0"}),
        ("objective", {"weighting": "debiased"}, {"ss_debiased_estimation": "True"}),
        ("objective", {"offset_noise": 0.05}, {"ss_noise_offset": "0.05"}),
        ("objective", {"pyramid_noise": 0.3}, PYRAMID),
        (
            "objective",
            {"pyramid_noise": 0.3, "pyramid_levels": 4},
            PYRAMID | {"ss_multires_noise_iterations": "4"},
        ),
        ("objective", {"input_perturbation": 0.1}, {"ss_ip_noise_gamma": "0.1"}),
        ("objective", {"zero_terminal_snr": True}, {"ss_zero_terminal_snr": "True"}),
        ("optimizer", {"lr": 0.5}, {"ss_learning_rate": "0.5", "ss_unet_lr": "0.5"}),
        ("optimizer", {"schedule": "cosine"}, {"ss_lr_scheduler": "cosine"}),
        ("optimizer", {"warmup_steps": 3}, {"ss_lr_warmup_steps": "3"}),
        ("training", {"precision": "bf16"}, {"ss_mixed_precision": "bf16"}),
        ("training", {"gradient_checkpointing": True}, {"ss_gradient_checkpointing": "True"}),
        ("training", {"max_grad_norm": 0.25}, {"ss_max_grad_norm": "0.25"}),
        ("adapter", {"dropout": 0.25}, {"ss_network_dropout": "0.25"}),
        ("data", {"resolution": 64}, {"ss_resolution": "(64, 64)", "modelspec.resolution": "64x64"}),
        ("data", {"flip": True}, {"ss_flip_aug": "True"}),
        ("data", {"crop": "random"}, {"ss_random_crop": "True"}),
        ("data", {"color_jitter": 0.1}, {"ss_color_aug": "True"}),
        ("data", {"cache": False}, {"ss_cache_latents": "False"}),
        ("data", {"caption_dropout": 0.1}, {"ss_caption_dropout_rate": "0.1"}),
    ],
)
def test_a_setting_is_told_under_kohyas_name(
    section: str, settings: dict[str, Any], said: dict[str, str], loaded: dict[str, Backbone]
) -> None:
    """And under no other; what is not set by default is left out."""
    before, after = (
        run_metadata(r, loaded["sd1"], FACTS, name="x", step=20)
        for r in (recipe(), recipe(**{section: settings}))
    )
    assert before.keys() <= after.keys()
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    del changed["finetune.recipe"]
    assert changed == said


@pytest.mark.parametrize(("rate", "told"), [(None, "0.001"), (0.0001, "0.0001")])
def test_the_rate_of_text_encoders_is_the_unets_if_not_given(
    rate: float | None, told: str, loaded: dict[str, Backbone]
) -> None:
    made = recipe(adapter={"text_encoder": True}, optimizer={"text_encoder_lr": rate})
    metadata = run_metadata(made, loaded["sd1"], FACTS, name="x", step=1)
    assert metadata["ss_text_encoder_lr"] == told
