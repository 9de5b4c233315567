"""Inpainting UNets: what they are called with, against the formula and diffusers' own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from finetune.backbones import Backbone, load_backbone
from finetune.backbones.controlnet import new_branch
from finetune.backbones.saving import save_folder
from finetune.config import ModelSection
from finetune.errors import ModelError, WeightsError
from finetune.formats import read_lora, write_kohya
from tests.formats.conftest import trained_lora
from tests.tiny import Family

TIMESTEPS = torch.tensor([5, 900])


def seen_by(backbone: Backbone, noisy: Tensor) -> tuple[Tensor, Tensor]:
    """What the UNet's first convolution sees when `noisy` is predicted from, and the prediction."""
    seen: list[Tensor] = []
    hook = backbone.unet.conv_in.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    answer = backbone.predict(noisy, TIMESTEPS, backbone.conditioning(["a cat", "a dog"]))
    hook.remove()
    return seen[0], answer


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 8)])
@torch.no_grad()
def test_the_unet_sees_latents_a_full_mask_and_gray(inpainting: Backbone, height: int, width: int) -> None:
    noisy = torch.randn(2, 4, height, width)
    seen, _ = seen_by(inpainting, noisy)
    gray = inpainting.vae.encode(torch.zeros(1, 3, 4 * height, 4 * width)).latent_dist.mean
    gray = gray * inpainting.vae.config.scaling_factor
    assert torch.equal(seen, torch.cat([noisy, torch.ones(2, 1, height, width), gray.tile(2, 1, 1, 1)], 1))


@torch.no_grad()
def test_the_answer_is_that_of_diffusers_unet(
    inpainting: Backbone, inpainting_models: dict[str, Path], family: Family
) -> None:
    seen, answer = seen_by(inpainting, torch.randn(2, 4, 8, 8))
    plain: Any = UNet2DConditionModel.from_pretrained(inpainting_models[family], subfolder="unet")
    told = inpainting.conditioning(["a cat", "a dog"])
    assert told.tokens is not None
    hidden, pooled = inpainting.encode_text(told.tokens)
    added = {"text_embeds": pooled, "time_ids": told.time_ids} if family == "sdxl" else None
    torch.testing.assert_close(answer, plain(seen, TIMESTEPS, hidden, added_cond_kwargs=added).sample)


def test_a_gradient_reaches_the_unet(inpainting: Backbone) -> None:
    weight = inpainting.unet.conv_in.weight.requires_grad_(True)
    seen_by(inpainting, torch.randn(2, 4, 8, 8))[1].square().mean().backward()
    assert weight.grad is not None
    assert all(weight.grad[:, channel].abs().max() > 0 for channel in range(9))


def test_gray_is_encoded_once_a_size(inpainting: Backbone) -> None:
    sizes: list[tuple[int, ...]] = []
    inpainting.vae.encoder.register_forward_pre_hook(lambda _module, args: sizes.append(args[0].shape))
    for side in (8, 8, 16, 8):
        seen_by(inpainting, torch.randn(2, 4, side, side))
    assert sizes == [(1, 3, 32, 32), (1, 3, 64, 64)]


def test_it_is_told_and_ordinary_models_are_left_alone(inpainting: Backbone, backbone: Backbone) -> None:
    assert inpainting.inpaints and not backbone.inpaints
    assert "inpainting model" in inpainting.notes[0]
    assert not backbone.unet._forward_pre_hooks


def test_it_is_saved_as_diffusers_inpainting_pipeline(
    inpainting: Backbone, inpainting_models: dict[str, Path], family: Family, tmp_path: Path
) -> None:
    save_folder(inpainting, tmp_path)
    source = json.loads((inpainting_models[family] / "model_index.json").read_text())
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == source["_class_name"]
    again = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(again).__name__ == source["_class_name"]
    expected = inpainting.unet.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.unet.state_dict().items())
    loaded = load_backbone(ModelSection(name=str(tmp_path)))
    noisy = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(seen_by(loaded, noisy)[1], seen_by(inpainting, noisy)[1])


def test_a_lora_of_one_kind_fits_the_other(inpainting: Backbone, backbone: Backbone, tmp_path: Path) -> None:
    for number, (made_on, other) in enumerate([(backbone, inpainting), (inpainting, backbone)]):
        lora = trained_lora(made_on, targets="all")
        file = tmp_path / f"{number}.safetensors"
        write_kohya(file, lora, {})
        lora.detach()
        assert len(read_lora(file, other).layers) == len(lora.weights().layers)


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_a_lora_of_the_first_convolution_does_not(
    inpainting: Backbone, backbone: Backbone, tmp_path: Path
) -> None:
    layer = "lora_unet_conv_in"
    tensors = {"lora_down.weight": (2, 4, 3, 3), "lora_up.weight": (4, 2, 1, 1)}
    file = tmp_path / "first.safetensors"
    save_file({f"{layer}.{name}": torch.ones(shape) for name, shape in tensors.items()}, file)
    assert read_lora(file, backbone).layers
    with pytest.raises(WeightsError, match="conv_in"):
        read_lora(file, inpainting)


def test_no_controlnet_is_made_from_it(inpainting: Backbone) -> None:
    with pytest.raises(ModelError, match="inpainting UNet") as caught:
        new_branch(inpainting, seed=0)
    assert "fits this one too" in str(caught.value.fix)
