"""Module names in files are the classic ones, and those of the original code for SDXL."""

from __future__ import annotations

import pytest
import torch

from finetune.backbones import Backbone
from finetune.backbones.names import live_text_name, original_unet_name
from tests.tiny import Family

ATTENTION = "transformer_blocks.0.attn1.to_q"


def test_roots(backbone: Backbone, family: Family) -> None:
    roots = backbone.module_roots()
    assert roots["unet"] is backbone.unet
    assert list(roots) == list(backbone.kohya_roots)
    assert backbone.kohya_roots["unet"] == "lora_unet"
    first = "lora_te1" if family == "sdxl" else "lora_te"
    assert backbone.kohya_roots["text_encoder"] == first


def test_text_encoder_names_are_classic_and_come_back(backbone: Backbone) -> None:
    classic = "text_model.encoder.layers.0.self_attn.q_proj"
    for number, (root, encoder) in enumerate(list(backbone.module_roots().items())[1:]):
        live = live_text_name(encoder, classic)
        assert isinstance(encoder.get_submodule(live), torch.nn.Linear)
        assert backbone.file_name(root, live) == classic
        prefix = backbone.kohya_roots[root]
        assert prefix.startswith("lora_te"), number
        assert backbone.kohya_name(root, live) == f"{prefix}_text_model_encoder_layers_0_self_attn_q_proj"


def test_projection_keeps_its_name(backbone: Backbone, family: Family) -> None:
    if family == "sdxl":
        assert backbone.file_name("text_encoder_2", "text_projection") == "text_projection"


# As SDXL LoRA files made with sd-scripts have them.
SD_SCRIPTS = {
    f"down_blocks.1.attentions.0.{ATTENTION}": "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
    f"down_blocks.2.attentions.1.{ATTENTION}": "input_blocks_8_1_transformer_blocks_0_attn1_to_q",
    f"mid_block.attentions.0.{ATTENTION}": "middle_block_1_transformer_blocks_0_attn1_to_q",
    f"up_blocks.0.attentions.2.{ATTENTION}": "output_blocks_2_1_transformer_blocks_0_attn1_to_q",
    "down_blocks.1.attentions.0.proj_in": "input_blocks_4_1_proj_in",
    "down_blocks.0.resnets.0.conv1": "input_blocks_1_0_in_layers_2",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks_4_0_skip_connection",
    "mid_block.resnets.1.time_emb_proj": "middle_block_2_emb_layers_1",
    "up_blocks.1.resnets.2.conv2": "output_blocks_5_0_out_layers_3",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
    "up_blocks.0.upsamplers.0.conv": "output_blocks_2_2_conv",
}


@pytest.mark.parametrize("family", ["sdxl"])
def test_sdxl_names_are_those_of_the_original_code(backbone: Backbone) -> None:
    for module, kohya in SD_SCRIPTS.items():
        assert backbone.unet.get_submodule(module) is not None
        assert backbone.kohya_unet_name(module) == kohya


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_others_keep_diffusers_names(backbone: Backbone) -> None:
    assert backbone.kohya_unet_name("down_blocks.0.resnets.0.conv1") == "down_blocks_0_resnets_0_conv1"


def test_original_names_are_distinct_and_unknown_parts_refused(backbone: Backbone) -> None:
    names = [name for name, _ in backbone.unet.named_parameters()]
    assert len({original_unet_name(backbone.unet, name) for name in names}) == len(names)
    with pytest.raises(KeyError):
        original_unet_name(backbone.unet, "controlnet.conv_in")
