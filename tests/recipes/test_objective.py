"""The settings of the loss in whole runs: refused before anything is done, or kept to the exported file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open

from finetune.errors import ConfigError
from finetune.recipes import Recipe, build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import run

SMALL = ("training.steps=2", "training.precision=fp32", "preview.every=0", "optimizer.warmup_steps=0")
pytestmark = pytest.mark.usefixtures("here")


def recipe(kind: str, pictures: Path, model: Path, *changes: str) -> Recipe:
    folder = "data_dir" if kind == "full" else "instance_dir"
    settings = [
        Setting(f"data.{folder}", pictures, f"--{folder}"),
        Setting("model.name", str(model), "--model"),
    ]
    return build(kind, [*settings, *(parse_set(change) for change in (*SMALL, *changes))])


def train(*args: Any) -> tuple[Path, list[str]]:
    said: list[str] = []
    return run(recipe(*args), tell=said.append).folder, said


def refused(here: Path, *args: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        train(*args)
    assert not (here / "runs").exists()
    return str(caught.value)


def test_a_schedule_that_is_trained_is_exported_and_sampled(
    tiny_models: dict[str, Path], pictures: Path
) -> None:
    folder, _ = train(
        "full",
        pictures,
        tiny_models["sd2"],  # predicts v
        "objective.zero_terminal_snr=true",
        "objective.beta_schedule=linear",
        "preview.every=2",
        "preview.steps=2",
        "preview.num=1",
    )
    assert (folder / "samples" / "step-000002.png").exists()
    told = json.loads((folder / "model" / "scheduler" / "scheduler_config.json").read_text())
    expected = {
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "prediction_type": "v_prediction",
    }
    assert {key: told[key] for key in expected} == expected
    pipe = StableDiffusionPipeline.from_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.alphas_cumprod[-1] == 0
    assert np.isfinite(pipe("a cat", num_inference_steps=2, output_type="np").images).all()


def test_what_does_not_fit_the_model_is_refused_before_anything_is_written(
    here: Path, tiny_models: dict[str, Path], pictures: Path
) -> None:
    noise, velocity = tiny_models["sd1"], tiny_models["sd2"]
    zero = "objective.zero_terminal_snr=true"
    assert "Zero terminal SNR needs v-prediction" in refused(here, "full", pictures, noise, zero)
    assert "cannot store a noise schedule" in refused(here, "lora", pictures, velocity, zero)
    assert "cannot store" in refused(here, "lora", pictures, velocity, "objective.beta_schedule=cosine")
    told = refused(here, "lora", pictures, velocity, "objective.target=epsilon")
    assert "model.prediction_type=epsilon" in told
    sampler = ("preview.every=1", "preview.scheduler=pndm")
    assert "`pndm` cannot sample this model" in refused(here, "full", pictures, velocity, zero, *sampler)
    many = ("preview.every=1", "preview.scheduler=lcm", "preview.steps=60")
    assert "cannot take 60 steps" in refused(here, "lora", pictures, noise, *many)
    told = refused(here, "lora", pictures, noise, "objective.huber_c=0.2", "objective.p2_k=1")
    assert "objective.huber_c has no effect" in told and "objective.p2_k has no effect" in told


def test_a_model_of_the_clean_picture_is_trained_and_previewed(
    tiny_models: dict[str, Path], pictures: Path
) -> None:
    folder, _ = train(
        "full",
        pictures,
        tiny_models["sd1"],
        "model.prediction_type=sample",
        "preview.every=2",
        "preview.steps=2",
        "preview.num=1",
    )
    assert (folder / "samples" / "step-000002.png").exists()
    told = json.loads((folder / "model" / "scheduler" / "scheduler_config.json").read_text())
    assert told["prediction_type"] == "sample"


def test_a_run_with_masks_and_much_else_keeps_what_it_did(
    here: Path, tiny_models: dict[str, Path], pictures: Path
) -> None:
    masks = here / "secret place" / "masks"
    masks.mkdir(parents=True)
    for index in range(3):
        Image.new("L", (36, 40), 255).save(masks / f"{index}.png")
    folder, said = train(
        "lora",
        pictures,
        tiny_models["sd1"],
        f"data.mask_dir={masks}",
        "data.unmasked_weight=0.1",
        "objective.loss=huber",
        "objective.weighting=min_snr",
        "objective.pyramid_noise=0.3",
        "objective.offset_noise=0.05",
        "objective.timesteps=[0.1, 0.9]",
        "objective.logit_normal=[0.5, 1]",
    )
    assert any("masks are white" in line or f"{masks} are white" in line for line in said)
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert losses and np.isfinite(losses).all()
    kept = yaml.safe_load((folder / "recipe.yaml").read_text())["objective"]
    assert kept["timesteps"] == [0.1, 0.9] and kept["logit_normal"] == [0.5, 1.0]
    with safe_open(folder / "mycat-lora.safetensors", framework="pt") as file:
        told = file.metadata()
    expected = {
        "ss_loss_type": "huber",
        "ss_huber_c": "0.1",
        "ss_huber_schedule": "snr",
        "ss_min_snr_gamma": "5.0",
        "ss_noise_offset": "0.05",
        "ss_multires_noise_discount": "0.3",
        "ss_multires_noise_iterations": "6",
    }
    assert {key: told.get(key) for key in expected} == expected
    assert not {"ss_zero_terminal_snr", "ss_ip_noise_gamma", "ss_debiased_estimation"} & set(told)
    assert "secret place" not in str(told)
