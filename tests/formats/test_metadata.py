"""What exported files say of themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from finetune.backbones import Backbone
from finetune.config import (
    DataSection,
    LoRASection,
    ModelSection,
    ObjectiveSection,
    OptimizerSection,
    TrainingSection,
)
from finetune.formats import DataFacts, run_metadata, write_diffusers, write_kohya
from finetune.formats.tensors import read_tensors, write_tensors
from tests.formats.conftest import trained_lora

FACTS = DataFacts("mycat", "abc123", ["a photo of mycat", "a photo of mycat, on snow"])


def recipe(**adapter: Any) -> dict[str, Any]:
    sections = {
        "model": ModelSection(name="storybook"),
        "data": DataSection(),
        "adapter": LoRASection(**adapter),
        "objective": ObjectiveSection(),
        "optimizer": OptimizerSection(lr=0.001, text_encoder_lr=0.0001),
        "training": TrainingSection(steps=30, batch_size=2, accumulation=2, precision="fp32", seed=11),
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
    told = run_metadata(recipe(text_encoder=True), backbone, facts, name="x", step=1)
    assert told["ss_text_encoder_lr"] == "0.0001"
    assert told["modelspec.trigger_phrase"] == "a photo of mycat"


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
@pytest.mark.parametrize(
    ("settings", "module", "dim", "alpha", "arguments"),
    [
        ({"rank": 4, "alpha": 2.0}, "networks.lora", "4", "2", {}),
        ({"rank": 4, "alpha": 2.0, "rslora": True}, "networks.lora", "4", "4", {}),
        (
            {"rank": 4, "alpha": 2.0, "conv_rank": 2, "conv_alpha": 0.5},
            "networks.lora",
            "4",
            "2",
            {"conv_dim": "2", "conv_alpha": "0.5"},
        ),
        (
            {"rank": 2, "alpha": 2.0, "dora": True},
            "lycoris.kohya",
            "2",
            "2",
            {"algo": "lora", "dora_wd": "True", "wd_on_output": "True"},
        ),
    ],
)
def test_network(
    settings: dict[str, Any],
    module: str,
    dim: str,
    alpha: str,
    arguments: dict[str, str],
    backbone: Backbone,
    tmp_path: Path,
) -> None:
    write_kohya(tmp_path / "k.safetensors", trained_lora(backbone, **settings), {"ss_seed": "1"})
    with safe_open(tmp_path / "k.safetensors", "pt") as file:
        told = file.metadata()
    assert (told["ss_network_module"], told["ss_network_dim"], told["ss_network_alpha"]) == (
        module,
        dim,
        alpha,
    )
    assert json.loads(told["ss_network_args"]) == arguments
    assert told["ss_seed"] == "1"
    assert "lora_adapter_metadata" not in told  # with it, diffusers refuses files that have alphas


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_diffusers_file_carries_both(backbone: Backbone, tmp_path: Path) -> None:
    write_diffusers(tmp_path / "d.safetensors", trained_lora(backbone), {"finetune.step": "7"})
    _, told = read_tensors(tmp_path / "d.safetensors")
    assert told["finetune.step"] == "7" and told["format"] == "pt"
    assert json.loads(told["lora_adapter_metadata"])["unet.r"] == 4


def test_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    """The library itself writes metadata in another order each time."""
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.float16)}
    metadata = {f"k{i}": "é" * i for i in range(20)}
    assert len({safetensors.torch.save(tensors, metadata) for _ in range(5)}) > 1  # else ours is not needed
    for name in "123":
        write_tensors(tmp_path / name, tensors, metadata)
    write_tensors(tmp_path / "4", dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    contents = {(tmp_path / name).read_bytes() for name in "1234"}
    assert len(contents) == 1
    read, metadata = read_tensors(tmp_path / "1")
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert metadata["k3"] == "ééé" and len(metadata) == 20
    assert int.from_bytes(contents.pop()[:8], "little") % 8 == 0
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]
