"""What was trained, what plain diffusers makes of the files, and what we make of them, is one picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from finetune.adapters import LoRA
from finetune.backbones import Backbone
from finetune.config import LoRASection
from finetune.formats import apply_lora, read_lora, write_diffusers, write_kohya
from tests.formats.conftest import picture, trained_lora

KINDS: dict[str, dict[str, Any]] = {
    "rank≠alpha": {},
    "rslora+conv": {
        "rslora": True,
        "conv_rank": 2,
        "conv_alpha": 3.0,
        "text_encoder": True,
        "targets": "all",
    },
    "dora": {"dora": True, "text_encoder": True, "conv_rank": 2},
}
Fresh = Callable[[], Backbone]


# All families and layouts are in tests/export/test_pictures.py.
@pytest.mark.parametrize("family", ["sd1"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_same_picture_everywhere(kind: str, tiny_folder: Path, fresh: Fresh, tmp_path: Path) -> None:
    base = picture(fresh().pipeline())
    backbone = fresh()
    lora = trained_lora(backbone, **KINDS[kind])
    learned = picture(backbone.pipeline())
    assert np.abs(learned - base).max() > 5  # else the test would show nothing

    kohya, diffusers = tmp_path / "k" / "mycat.safetensors", tmp_path / "d" / "lora.safetensors"
    write_kohya(kohya, lora, {"ss_seed": "1"})
    write_diffusers(diffusers, lora, {"finetune.step": "3"})
    for file in (kohya, diffusers):
        if kind != "dora" or file is diffusers:  # diffusers leaves dora_scale out
            pipeline = DiffusionPipeline.from_pretrained(tiny_folder, local_files_only=True)
            pipeline.load_lora_weights(file.parent, weight_name=file.name)
            assert np.abs(picture(pipeline) - learned).max() < 1, f"diffusers on {file.name}"

        other = fresh()
        applied = apply_lora(other, read_lora(file, other))
        assert np.abs(picture(other.pipeline()) - learned).max() < 1, f"ours on {file.name}"
        restore = applied.merge()
        assert np.abs(picture(other.pipeline()) - learned).max() < 1, f"merged from {file.name}"
        restore()
        assert np.array_equal(picture(other.pipeline()), base)


@pytest.mark.parametrize("family", ["sd1", "sdxl"], indirect=True)
@pytest.mark.parametrize("kind", ["rslora+conv", "dora"])
def test_kohya_by_formula(kind: str, backbone: Backbone, tmp_path: Path) -> None:
    """The file, read as its conventions say, gives the weights that PEFT merges."""
    lora = trained_lora(backbone, **KINDS[kind])
    write_kohya(tmp_path / "k.safetensors", lora, {})
    tensors = load_file(tmp_path / "k.safetensors")
    roots = backbone.module_roots()
    layers = {
        (root, backbone.file_name(root, name)): module.get_base_layer()
        for root, part in roots.items()
        for name, module in part.named_modules()
        if hasattr(module, "get_base_layer")
    }
    assert layers.keys() == lora.weights().layers.keys()
    weights = {key: layer.weight.clone() for key, layer in layers.items()}
    for part in roots.values():
        for module in part.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()
    for (part, name), before in weights.items():
        key = backbone.kohya_name(part, name)
        down, up = (tensors.pop(f"{key}.lora_{way}.weight") for way in ("down", "up"))
        scale = tensors.pop(f"{key}.alpha").item() / down.shape[0]
        new = before + scale * (up.flatten(1) @ down.flatten(1)).view(before.shape)
        if kind == "dora":
            norm = new.flatten(1).norm(dim=1).view(-1, *[1] * (new.ndim - 1))
            new = new * tensors.pop(f"{key}.dora_scale") / norm
        torch.testing.assert_close(layers[part, name].weight, new, rtol=1e-4, atol=1e-5)
    assert not tensors  # nothing else is in the file


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_files_tell_a_rank_stabilised_strength_as_alpha_by_rank(backbone: Backbone, tmp_path: Path) -> None:
    section = LoRASection(rank=4, alpha=2.0, conv_rank=9, conv_alpha=6.0, targets=["attn1.to_q"], rslora=True)
    lora = LoRA(backbone, section)
    for parameter in lora.trained().values():
        parameter.data.fill_(1)
    write_kohya(tmp_path / "k.safetensors", lora, {})
    write_diffusers(tmp_path / "d.safetensors", lora, {})
    kohya, diffusers = (load_file(tmp_path / f"{f}.safetensors") for f in "kd")
    # A product of ones is the rank everywhere, and the strengths are 2/√4 and 6/√9.
    changes = {
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 4.0,
        "mid_block.resnets.0.conv1": 18.0,
    }
    for name, change in changes.items():
        key = "lora_unet_" + name.replace(".", "_")
        down, up = (kohya[f"{key}.lora_{way}.weight"] for way in ("down", "up"))
        scaled = up * kohya[f"{key}.alpha"] / len(down)
        a, b = (diffusers[f"unet.{name}.lora_{letter}.weight"] for letter in "AB")
        for right, left in ((down, scaled), (a, b)):
            product = left.flatten(1) @ right.flatten(1)
            torch.testing.assert_close(product, torch.full_like(product, change))


@pytest.mark.parametrize("family", ["sd1", "sdxl"], indirect=True)
def test_key_names(backbone: Backbone, tmp_path: Path) -> None:
    lora = trained_lora(backbone, text_encoder=True, conv_rank=2)
    write_kohya(tmp_path / "k.safetensors", lora, {})
    write_diffusers(tmp_path / "d.safetensors", lora, {})
    kohya, diffusers = (set(load_file(tmp_path / f"{f}.safetensors")) for f in "kd")
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight" in diffusers
    assert "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight" in diffusers
    if backbone.family == "sdxl":
        expected = {
            "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_down.weight",
            "lora_unet_input_blocks_1_0_in_layers_2.lora_up.weight",
            "lora_unet_input_blocks_3_0_op.alpha",
            "lora_unet_output_blocks_2_2_conv.alpha",
            "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.alpha",
            "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.alpha",
        }
    else:
        expected = {
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_up.weight",
            "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight",
            "lora_te_text_model_encoder_layers_0_self_attn_out_proj.alpha",
        }
    assert expected <= kohya


@pytest.mark.parametrize("family", ["sd1", "sdxl"], indirect=True)
@pytest.mark.filterwarnings("ignore:Already found a .peft_config.")  # diffusers' own second LoRA
def test_several_loras_add_up(fresh: Fresh, tmp_path: Path) -> None:
    first, second = fresh(), fresh()
    write_diffusers(tmp_path / "1.safetensors", trained_lora(first), {})
    write_kohya(tmp_path / "2.safetensors", trained_lora(second, targets="all", text_encoder=True), {})
    backbone = fresh()
    base = picture(backbone.pipeline())
    before = {n: t.clone() for n, t in backbone.unet.state_dict().items()}
    one = apply_lora(backbone, read_lora(tmp_path / "1.safetensors", backbone), 0.5)
    only_one = picture(backbone.pipeline())
    two = apply_lora(backbone.pipeline(), read_lora(tmp_path / "2.safetensors", backbone), 0.25)
    together = picture(backbone.pipeline())
    assert not any(p.requires_grad for p in backbone.unet.parameters())

    pipeline = fresh().pipeline()
    for i in (1, 2):
        pipeline.load_lora_weights(tmp_path, weight_name=f"{i}.safetensors", adapter_name=f"a{i}")
    pipeline.set_adapters(["a1", "a2"], [0.5, 0.25])
    assert np.abs(picture(pipeline) - together).max() < 1

    two.set_scale(0)
    assert np.abs(picture(backbone.pipeline()) - only_one).max() < 1e-2
    two.remove()
    assert np.array_equal(picture(backbone.pipeline()), only_one)
    one.remove()
    assert np.array_equal(picture(backbone.pipeline()), base)
    after = backbone.unet.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in before)
