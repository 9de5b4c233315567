"""Every name in every kind of file, of the published models at their true size, which have no values here."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor

from finetune.adapters import LowRank
from finetune.adapters.weights import LoRAWeights
from finetune.backbones import Backbone
from finetune.backbones.names import classic_text_name, original_branch_name, original_unet_name
from finetune.backbones.original import original_state
from finetune.backbones.skeleton import published_skeleton
from finetune.formats.diffusers import diffusers_tensors
from finetune.formats.keys import LayerNames, parse_key
from finetune.formats.kohya import kohya_tensors
from finetune.formats.peft import _tensors as peft_tensors
from tests import layouts
from tests.families import Family

UNET, VAE = "model.diffusion_model.", "first_stage_model."
Shapes = dict[str, tuple[int, ...]]


@cache
def published(family: Family) -> Backbone:
    return published_skeleton(family)


@cache
def checkpoint(family: Family) -> dict[str, Tensor]:
    """What we write into one file."""
    with torch.device("meta"):
        state = original_state(replace(published(family), scheduler=DDIMScheduler()))
        return {name: planned.make() for name, planned in state.items()}


def shapes(tensors: dict[str, Tensor], prefix: str = "") -> Shapes:
    """The shapes of what begins so, without it."""
    return {
        name.removeprefix(prefix): tuple(t.shape) for name, t in tensors.items() if name.startswith(prefix)
    }


def test_a_checkpoint_has_the_published_names_and_shapes(family: Family) -> None:
    ours = shapes(checkpoint(family))
    expected = {f"{UNET}{t.original}": t.shape for t in layouts.unet(layouts.UNETS[family])}
    expected |= {f"{VAE}{t.original}": t.shape for t in layouts.vae()}
    for config in layouts.TEXTS[family]:
        expected |= {f"{config.prefix}{name}": shape for name, shape in layouts.text(config).items()}
    assert ours == expected


def test_each_unet_name_means_the_same_weight(family: Family) -> None:
    """For us, for diffusers' own conversion, and by the original code's constructor."""
    unet, expected = published(family).unet, list(layouts.unet(layouts.UNETS[family]))
    assert shapes(unet.state_dict()) == {t.diffusers: t.shape for t in expected}
    named = {name: original_unet_name(unet, name) for name in unet.state_dict()}
    assert named == {t.diffusers: t.original for t in expected}
    converted = convert_ldm_unet_checkpoint(dict(checkpoint(family)), unet.config)
    assert origins(converted, checkpoint(family), UNET) == named


def test_each_vae_name_means_the_same_weight(family: Family) -> None:
    vae = published(family).vae
    expected = {t.diffusers: t.original for t in layouts.vae()}
    assert vae.state_dict().keys() == expected.keys()
    # It makes new tensors of the attention's convolutions, which have their shape alone to show.
    converted = convert_ldm_vae_checkpoint(dict(checkpoint(family)), vae.config)
    assert shapes(converted) == shapes(vae.state_dict())
    same = origins(converted, checkpoint(family), VAE)
    assert same == {name: expected[name] for name in same} and len(same) >= len(expected) - 8


def origins(converted: dict[str, Tensor], tensors: dict[str, Tensor], prefix: str) -> dict[str, str]:
    """Which of `tensors` each of the converted is, by its name without the prefix."""
    known = {id(tensor): name.removeprefix(prefix) for name, tensor in tensors.items()}
    return {name: known[id(tensor)] for name, tensor in converted.items() if id(tensor) in known}


@pytest.mark.parametrize(("family", "number"), [("sd2", 0), ("sdxl", 1)])
def test_diffusers_finds_open_clips_weights(family: Family, number: int) -> None:
    encoder, prefix = published(family).text_encoders[number], layouts.TEXTS[family][number].prefix
    found = convert_open_clip_checkpoint(encoder, dict(checkpoint(family)), prefix)
    own = {classic_text_name(encoder, name): shape for name, shape in shapes(encoder.state_dict()).items()}
    assert own.items() <= {classic_text_name(encoder, name): s for name, s in shapes(found).items()}.items()


def test_a_controlnet_has_the_published_names_and_shapes(family: Family) -> None:
    with torch.device("meta"):
        branch = ControlNetModel.from_unet(published(family).unet)
    expected = list(layouts.controlnet(layouts.UNETS[family]))
    state = branch.state_dict()
    assert shapes(state) == {t.diffusers: t.shape for t in expected}
    named = {name: original_branch_name(branch, name) for name in state}
    assert named == {t.diffusers: t.original for t in expected}
    file = {f"control_model.{named[name]}": tensor for name, tensor in state.items()}
    converted = convert_controlnet_checkpoint(dict(file), branch.config)
    converted = {name: tensor for name, tensor in converted.items() if tensor is not None}
    known = origins(converted, file, "control_model.")
    unread = {name for name in named if name.startswith("add_embedding.")}  # by diffusers 0.42
    assert known == {name: original for name, original in named.items() if name not in unread}


# --- LoRAs ------------------------------------------------------------------------------------------


def layers(family: Family) -> dict[tuple[str, str], layouts.Shape]:
    """Every layer that a LoRA can change, by part and diffusers' name, and its shape."""
    unet = {
        ("unet", t.diffusers.removesuffix(".weight")): t.shape
        for t in layouts.unet(layouts.UNETS[family])
        if len(t.shape) > 1
    }
    texts = {
        (part, f"text_model.encoder.layers.{i}.{name}"): shape
        for part, config in zip(("text_encoder", "text_encoder_2"), layouts.TEXTS[family], strict=False)
        for i in range(config.layers)
        for name, shape in layouts.clip_layers(config.width).items()
    }
    return unet | texts


@cache
def lora(family: Family) -> LoRAWeights:
    """A LoRA of rank 1 without values on each of them."""
    with torch.device("meta"):
        rows = {
            key: LowRank(torch.empty(1, *shape[1:]), torch.empty(shape[0], 1, *[1] * (len(shape) - 2)), 1.0)
            for key, shape in layers(family).items()
        }
    return LoRAWeights(rows, {}, (), {})


def test_a_loras_layers_are_the_models(family: Family) -> None:
    """No layer is left out, and none has another shape."""
    known = {key: shape for key, shape in LayerNames(published(family)).shapes.items() if len(shape) > 1}
    known.pop(("text_encoder_2", "text_projection"), None)  # a layer, but part of no block
    assert known == layers(family)


def test_kohyas_names(family: Family) -> None:
    """sd-scripts has diffusers' names for SD 1 and 2, and the original code's for SDXL."""
    originals = {t.diffusers: t.original for t in layouts.unet(layouts.UNETS[family])}
    roots = {"unet": "lora_unet", "text_encoder": "lora_te"}
    if family == "sdxl":
        roots |= {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    expected = set()
    for part, name in layers(family):
        of_unet = originals.get(f"{name}.weight", "").removesuffix(".weight")
        stem = of_unet if family == "sdxl" and part == "unet" else name
        prefix = f"{roots[part]}_{stem.replace('.', '_')}"
        expected |= {f"{prefix}.lora_down.weight", f"{prefix}.lora_up.weight", f"{prefix}.alpha"}
    ours = kohya_tensors(lora(family), published(family))
    assert ours.keys() == expected
    names = LayerNames(published(family))
    assert {names.find(key) for name in ours if (key := parse_key(name))} == layers(family).keys()


def test_names_of_diffusers_and_peft(family: Family) -> None:
    """Diffusers' are PEFT's with the part before them; PEFT's own have `base_model.model` there."""
    halves = ("lora_A.weight", "lora_B.weight")
    ours = diffusers_tensors(lora(family))
    assert ours.keys() == {f"{part}.{name}.{half}" for part, name in layers(family) for half in halves}
    unet = {name: layer for (part, name), layer in lora(family).layers.items() if part == "unet"}
    own = peft_tensors("unet", unet, torch.float16)
    assert own.keys() == {f"base_model.model.{name}.{half}" for name in unet for half in halves}
    names = LayerNames(published(family))
    for state in (ours, own):
        for name in state:
            key = parse_key(name)
            assert key is not None
            layer = names.find(key)
            assert layer is not None and name.endswith(f"{layer[1]}.{name[-13:]}")


def test_diffusers_finds_every_layer_under_its_kohya_name(family: Family) -> None:
    """Also those of SDXL, whose names diffusers has to translate; it passes through spellings of its own."""
    backbone = published(family)
    pipeline = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    tensors = kohya_tensors(lora(family), backbone)
    read, _ = pipeline.lora_state_dict(tensors, unet_config=backbone.unet.config)
    found = {re.sub(r"[._]lora(_linear_layer)?\.(down|up)\.weight$", "", name) for name in read}
    assert {plain(name) for name in found} == {f"{part}.{name}" for part, name in layers(family)}


def plain(name: str) -> str:
    """A layer's name today, from diffusers' before PEFT."""
    if name.startswith("text_encoder"):
        return re.sub(r"self_attn\.to_(\w+?)(\.0)?$", r"self_attn.\1_proj", name)
    return name.replace("processor.", "").replace("to_out", "to_out.0").replace(".0.0", ".0")
