"""Single-file checkpoints in the original layout, weight by weight."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

from finetune.backbones import Backbone, load_backbone
from finetune.backbones.checkpoint import (
    Header,
    family_of_checkpoint,
    input_channels,
    read_header,
    stated_prediction,
)
from finetune.backbones.folder import load_folder
from finetune.backbones.known import FAMILIES
from finetune.backbones.original import is_published, original_state
from finetune.backbones.single_file import convert, probe_prediction, settle_prediction
from finetune.config import ModelSection
from finetune.errors import ModelError
from tests.tiny import Family, tiny_pipeline


def state_of(pipe: Any) -> dict[str, torch.Tensor]:
    """The weights of a tiny pipeline under their original names."""
    encoders = [pipe.text_encoder, *([pipe.text_encoder_2] if hasattr(pipe, "text_encoder_2") else [])]
    family: Family = (
        "sdxl" if len(encoders) > 1 else "sd2" if pipe.unet.config.use_linear_projection else "sd1"
    )
    return under_original_names(
        FAMILIES[family](family, "tiny", pipe.unet, pipe.vae, tuple(encoders), (), pipe.scheduler)
    )


def under_original_names(backbone: Backbone) -> dict[str, torch.Tensor]:
    """All weights as a checkpoint has them."""
    return {name: weight.made() for name, weight in original_state(backbone).items()}


def write_original(pipe: Any, file: Path) -> Path:
    """Writes a tiny pipeline into one safetensors file."""
    save_file(state_of(pipe), file)
    return file


@pytest.fixture
def checkpoint(family: Family, tmp_path: Path) -> Path:
    """The tiny model of `family` as a single file with the original key names."""
    return write_original(tiny_pipeline(family), tmp_path / "tiny.safetensors")


def read(file: Path, folder: Path, family: Family, **settings: Any) -> Backbone:
    """Loads a tiny checkpoint as `load_single_file` would a published one."""
    section = ModelSection(name=str(file), **settings)
    tokenizers = load_folder(folder, ModelSection(name=str(folder))).tokenizers
    header = read_header(file, allow_pickle=True, ema=section.ema)
    backbone = convert(file, family, folder, tokenizers, section, header)
    settle_prediction(backbone, file, header, section)
    return backbone


def test_every_weight_arrives(
    checkpoint: Path, backbone: Backbone, tiny_folder: Path, family: Family
) -> None:
    loaded = read(checkpoint, tiny_folder, family)
    assert loaded.family == family
    pairs = [(loaded.unet, backbone.unet), (loaded.vae, backbone.vae)]
    pairs += zip(loaded.text_encoders, backbone.text_encoders, strict=True)
    for ours, theirs in pairs:
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
        assert not any(p.requires_grad for p in ours.parameters())
    assert loaded.fingerprint_text() == backbone.fingerprint_text()
    assert loaded.fingerprint_vae() == backbone.fingerprint_vae()


def test_an_inpainting_checkpoint_answers_as_its_folder_does(
    inpainting: Backbone, tiny_folder: Path, family: Family, tmp_path: Path
) -> None:
    file = tmp_path / "inpainting.safetensors"
    save_file(under_original_names(inpainting), file)
    # The configurations are those of the text-to-image model, as the published ones are.
    single = read(file, tiny_folder, family)
    assert single.inpaints and single.unet.config.in_channels == 9
    noisy, conditioning = torch.randn(2, 4, 8, 8), inpainting.conditioning(["a cat", "a dog"])
    answers = [model.predict(noisy, torch.tensor([5, 900]), conditioning) for model in (single, inpainting)]
    torch.testing.assert_close(*answers)


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "sd1"),
        ("cond_stage_model.model.ln_final.weight", "sd2"),
        ("conditioner.embedders.1.model.ln_final.weight", "sdxl"),
    ],
)
def test_nine_channels_are_recognised_before_the_weights_are_read(key: str, family: str) -> None:
    first = "model.diffusion_model.input_blocks.0.0.weight"
    header = Header({first: (320, 9, 3, 3), key: (4,)}, {})
    assert (family_of_checkpoint(header, "file"), input_channels(header)) == (family, 9)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}])
def test_a_pickle_of_something_else_is_told(content: object, tmp_path: Path) -> None:
    file = tmp_path / "odd.ckpt"
    torch.save(content, file)
    with pytest.raises(ModelError, match="plain weights"):
        load_backbone(ModelSection(name=str(file), allow_pickle=True))


def test_the_pickle_needs_permission(tmp_path: Path) -> None:
    file = tmp_path / "tiny.ckpt"
    torch.save({"state_dict": state_of(tiny_pipeline("sd1"))}, file)
    with pytest.raises(ModelError, match="allow_pickle=true"):
        load_backbone(ModelSection(name=str(file)))


@pytest.mark.parametrize("family", ["sd1"])
def test_an_allowed_pickle_is_read(family: Family, tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.ckpt"
    torch.save({"state_dict": state_of(tiny_pipeline("sd1"))}, file)
    assert read(file, tiny_folder, "sd1", allow_pickle=True).unet.conv_in.weight.isfinite().all()


@pytest.mark.parametrize("family", ["sd1"])
def test_a_missing_weight_is_named(
    checkpoint: Path, tiny_folder: Path, tmp_path: Path, family: Family
) -> None:
    state = state_of(tiny_pipeline("sd1"))
    del state["cond_stage_model.transformer.text_model.final_layer_norm.weight"]
    save_file(state, tmp_path / "holes.safetensors")
    with pytest.raises(ModelError, match=r"final_layer_norm\.weight"):
        read(tmp_path / "holes.safetensors", tiny_folder, "sd1")


# --- prediction type --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1"])
def test_the_family_decides_when_nothing_is_said(checkpoint: Path, tiny_folder: Path, family: Family) -> None:
    backbone = read(checkpoint, tiny_folder, "sd1")
    assert backbone.prediction_type == "epsilon"
    assert "the file does not say" in backbone.notes[0]


@pytest.mark.parametrize("family", ["sd1"])
def test_the_users_word_comes_first(checkpoint: Path, tiny_folder: Path, family: Family) -> None:
    checkpoint.with_suffix(".yaml").write_text("model: {params: {parameterization: eps}}")
    backbone = read(checkpoint, tiny_folder, "sd1", prediction_type="v_prediction")
    assert backbone.prediction_type == "v_prediction"
    assert backbone.notes == ()


@pytest.mark.parametrize(
    ("sidecar", "metadata", "shapes", "said"),
    [
        ("model: {params: {parameterization: v}}", {}, {}, "v_prediction"),
        ("model: {params: {}}", {}, {}, "epsilon"),
        ("just a note", {"modelspec.prediction_type": "v"}, {}, "v_prediction"),
        (None, {"modelspec.prediction_type": "epsilon"}, {}, "epsilon"),
        (None, {}, {"v_pred": ()}, "v_prediction"),
        (None, {}, {}, None),
    ],
)
def test_the_file_may_say_it(
    sidecar: str | None, metadata: dict[str, str], shapes: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    if sidecar:
        (tmp_path / "v.yaml").write_text(sidecar)
    stated = stated_prediction(tmp_path / "v.safetensors", Header(shapes, metadata))
    assert (stated and stated[0]) == said


@pytest.mark.parametrize("family", ["sdxl"])
def test_a_marked_file_is_read_as_it_says(family: Family, tiny_folder: Path, tmp_path: Path) -> None:
    marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    save_file(state_of(tiny_pipeline("sdxl")) | marks, tmp_path / "v.safetensors")
    backbone = read(tmp_path / "v.safetensors", tiny_folder, "sdxl")
    assert backbone.prediction_type == "v_prediction"
    assert backbone.scheduler.config.rescale_betas_zero_snr
    assert "v_pred mark" in backbone.notes[0]


@pytest.mark.parametrize("family", ["sd2"])
@pytest.mark.parametrize(("answer", "kind"), [(1.0, "epsilon"), (-0.01, "v_prediction")])
def test_what_the_unet_answers_tells_its_kind(backbone: Backbone, answer: float, kind: str) -> None:
    generator = torch.Generator().manual_seed(5)

    def model(latents: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        # An ideal denoiser of pictures about 0 at the last timestep, with some error.
        return (answer * latents + 0.3 * torch.randn(latents.shape, generator=generator),)

    backbone.unet.forward = model
    assert probe_prediction(backbone) == kind


# --- files that are something else ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (4, 4)}, "a LoRA"),
        ({"control_model.time_embed.0.weight": (4, 4)}, "a ControlNet"),
        ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4, 4)}, "Stable Diffusion 3"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (4,)}, "Flux"),
        ({"first_stage_model.encoder.conv_in.weight": (4, 4)}, "a VAE"),
        ({"down_blocks.0.resnets.0.conv1.weight": (4, 4)}, "a UNet alone"),
        ({"some.other.thing": (4,)}, "not a Stable Diffusion"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (4, 8, 3, 3)}, "an editing model"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)}, "no known text encoder"),
        (
            {
                "model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3),
                "conditioner.embedders.0.model.ln_final.weight": (4,),
            },
            "refiner",
        ),
    ],
)
def test_other_files_are_refused_by_name(
    shapes: dict[str, tuple[int, ...]], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, file)
    with pytest.raises(ModelError, match=said) as caught:
        load_backbone(ModelSection(name=str(file)))
    assert caught.value.fix


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\xff" * 64])
def test_damaged_files_are_told(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "damaged.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match="truncated"):
        load_backbone(ModelSection(name=str(file)))


def test_a_truncated_file_is_told(tmp_path: Path) -> None:
    file = write_original(tiny_pipeline("sd1"), tmp_path / "cut.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="truncated"):
        load_backbone(ModelSection(name=str(file)))


def test_a_tiny_model_does_not_fit_the_published_structure(tmp_path: Path) -> None:
    file = write_original(tiny_pipeline("sd1"), tmp_path / "tiny.safetensors")
    with pytest.raises(ModelError, match="cannot be read") as caught:
        load_backbone(ModelSection(name=str(file)))
    assert caught.value.where == str(file)


def test_a_published_structure_is_known(family: Family, tiny_folder: Path) -> None:
    tiny = load_folder(tiny_folder, ModelSection(name=str(tiny_folder)))
    assert not is_published(tiny)
    folder = files("finetune.backbones").joinpath("published", family)
    unet, vae = (json.loads(folder.joinpath(part, "config.json").read_text()) for part in ("unet", "vae"))
    with torch.device("meta"):
        full = replace(tiny, unet=UNet2DConditionModel.from_config(unet), vae=AutoencoderKL.from_config(vae))
    assert is_published(full)
