"""Diffusers folders: what is read, noted and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.backbones import Backbone, load_backbone
from finetune.config import ModelSection
from finetune.errors import ModelError
from tests.tiny import Family


@pytest.fixture
def folder(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny SD 1 that a test may spoil."""
    return Path(shutil.copytree(tiny_models["sd1"], tmp_path / "model"))


def load(folder: Path, **settings: Any) -> Backbone:
    return load_backbone(ModelSection(name=str(folder), **settings))


def change(file: Path, **entries: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | entries))


def test_the_users_prediction_type_overrules(folder: Path) -> None:
    assert load(folder, prediction_type="v_prediction").prediction_type == "v_prediction"


def test_notes_tell_unused_weights(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"extra.weight": torch.zeros(1)}, file, metadata={"format": "pt"})
    assert "extra.weight" in load(folder).notes[0]


def test_a_half_precision_variant_is_found(folder: Path) -> None:
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        file = folder / part / f"{stem}.safetensors"
        halves = {k: v.half() for k, v in load_file(file).items()}
        save_file(halves, file.with_name(f"{stem}.fp16.safetensors"), metadata={"format": "pt"})
        file.unlink()
    backbone = load(folder)
    assert backbone.unet.dtype == torch.float32
    assert backbone.text_encoders[0].dtype == torch.float32


def test_pickled_weights_need_permission(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(ModelError, match="allow_pickle=true"):
        load(folder)
    assert load(folder, allow_pickle=True).family == "sd1"


def _no_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def _checkpoint_inside(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    (folder / "thing.safetensors").touch()


def _no_unet(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    del index["unet"]
    index |= {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))


def _strange_part(folder: Path) -> None:
    change(folder / "model_index.json", controlnet=["diffusers", "ControlNetModel"])


def _editing(folder: Path) -> None:
    change(folder / "unet" / "config.json", in_channels=8)


def _refiner(folder: Path) -> None:
    change(folder / "unet" / "config.json", addition_embed_type="text_time")
    index = {"text_encoder": [None, None], "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    change(folder / "model_index.json", **index)


def _unclip(folder: Path) -> None:
    change(folder / "unet" / "config.json", class_embed_type="projection")


def _no_vae(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def _no_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _hole(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["decoder.conv_in.weight"]
    save_file(weights, file, metadata={"format": "pt"})


def _text_hole(folder: Path) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    del weights[next(k for k in weights if k.endswith("final_layer_norm.weight"))]
    save_file(weights, file, metadata={"format": "pt"})


def _wrong_shape(folder: Path) -> None:
    change(folder / "unet" / "config.json", cross_attention_dim=24)


def _not_finite(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"quant_conv.bias": torch.full((8,), torch.nan)}, file)


def _integers(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"quant_conv.bias": torch.ones(8, dtype=torch.int32)}, file)


def _nested_json(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("[" * 9000)


def _no_token_length(folder: Path) -> None:
    change(folder / "tokenizer" / "tokenizer_config.json", model_max_length="many")


def _odd_setting(folder: Path) -> None:
    change(folder / "unet" / "config.json", downsample_padding=["x"])


def _no_json(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{")


def _no_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


def _strange_prediction(folder: Path) -> None:
    change(folder / "scheduler" / "scheduler_config.json", prediction_type="flow_prediction")


def _unknown_scheduler(folder: Path) -> None:
    change(folder / "model_index.json", scheduler=["diffusers", "NoSuchScheduler"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_index, "no model_index.json"),
        (_checkpoint_inside, r"--model .*thing\.safetensors"),
        (_no_unet, "A FluxPipeline has no UNet"),
        (_strange_part, "unknown part 'controlnet'"),
        (_editing, "an editing model"),
        (_refiner, "refiner"),
        (_unclip, "unCLIP"),
        (_no_vae, "no VAE"),
        (_no_weights, "no weights"),
        (_cut_weights, "cannot be read"),
        (_hole, r"decoder\.conv_in\.weight"),
        (_text_hole, r"final_layer_norm\.weight"),
        (_wrong_shape, r"attn2"),
        (_no_json, "cannot be read"),
        (_no_tokenizer, "cannot be read"),
        (_strange_prediction, "prediction type 'flow_prediction' is unknown"),
        (_unknown_scheduler, "not a diffusers scheduler"),
        (_odd_setting, "downsample_padding is .*, not a number"),
        (_integers, "quant_conv.bias is I32"),
        (_nested_json, "cannot be read"),
        (_no_token_length, "cannot be read: .*many"),
        (_not_finite, "NaN or infinite: quant_conv.bias"),
    ],
)
def test_faults_are_told_with_place_and_fix(spoil: Callable[[Path], None], said: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(ModelError, match=said) as caught:
        load(folder)
    assert caught.value.where is not None
    assert str(folder) in caught.value.where
    assert caught.value.fix


@pytest.mark.parametrize(
    "entry",
    [
        *("DDIMScheduler", None, [], ["diffusers"], ["diffusers", 7], [None, None]),
        *(["diffusers", "UNet2DConditionModel"], ["foo", "DDIMScheduler"]),
    ],
)
def test_a_scheduler_must_be_named_as_one(entry: object, folder: Path) -> None:
    change(folder / "model_index.json", scheduler=entry)
    with pytest.raises(ModelError, match="not a diffusers scheduler") as caught:
        load(folder)
    assert caught.value.where == str(folder / "model_index.json") and caught.value.fix


@pytest.mark.parametrize(
    "name",
    [
        *("SchedulerMixin", "VQDiffusionScheduler", "IPNDMScheduler"),
        *("FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"),
    ],
)
def test_a_scheduler_of_another_kind_of_noise_is_refused(name: str, folder: Path) -> None:
    change(folder / "model_index.json", scheduler=["diffusers", name])
    with pytest.raises(ModelError, match=f"noise schedule of {name} is not Stable Diffusion's"):
        load(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"beta_start": "x"},
        {"beta_schedule": "cubic"},
        {"beta_schedule": 7},
        {"beta_start": None},
        {"beta_start": -0.1},
        {"beta_end": float("nan")},
        {"beta_end": 1e9},
        {"num_train_timesteps": 0},
        {"num_train_timesteps": -3},
        {"trained_betas": ["a"]},
    ],
    ids=str,
)
def test_odd_numbers_of_a_scheduler_are_told(settings: dict[str, object], folder: Path) -> None:
    change(folder / "scheduler" / "scheduler_config.json", **settings)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert str(folder / "scheduler") in str(caught.value.where) and caught.value.fix


def test_loading_leaves_the_random_numbers_alone(tiny_folder: Path, family: Family) -> None:
    before = torch.get_rng_state()
    load(tiny_folder)
    assert torch.equal(torch.get_rng_state(), before)
