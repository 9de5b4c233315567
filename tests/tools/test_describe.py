"""What `finetune inspect` says of a file, against numbers taken from its tensors by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors.torch import load_file, save_file

from finetune.adapters import LoRAWeights
from finetune.backbones import Backbone
from finetune.backbones.skeleton import published_skeleton
from finetune.config import ModelSection
from finetune.errors import ModelError, WeightsError
from finetune.formats import write_diffusers, write_kohya, write_lora
from finetune.formats.diffusers import diffusers_tensors
from finetune.tools import describe
from finetune.tools.blocks import block_of, by_block
from finetune.tools.source import structure_for
from tests.formats.conftest import trained_lora
from tests.tools.changes import by_diffusers, by_peft

one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)
EVERYWHERE = ["A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers", "finetune"]


@one_family
def test_ranks_alphas_and_norms(backbone: Backbone, tmp_path: Path) -> None:
    lora = trained_lora(backbone, conv_rank=3, conv_alpha=1.5, text_encoder=True)
    write_kohya(tmp_path / "x.safetensors", lora, {"ss_steps": "7"}, dtype=torch.float16)
    lora.detach()
    found = describe(tmp_path / "x.safetensors", backbone)
    changes = by_peft(backbone, tmp_path / "x.safetensors")
    squares = {name: change.double().square().sum().item() for name, change in changes.items()}
    blocks = {block["block"]: block for block in found["blocks"]}
    for block, start in (("unet mid_block", "unet.mid_block"), ("text_encoder", "text_encoder")):
        chosen = [square for name, square in squares.items() if name.startswith(start)]
        assert blocks[block]["layers"] == len(chosen)
        assert blocks[block]["norm"] == pytest.approx(math.sqrt(sum(chosen)), rel=1e-4)
    assert found["norm"] == pytest.approx(math.sqrt(sum(squares.values())), rel=1e-4)
    assert blocks["unet mid_block"]["rank"] == [3, 4] and blocks["text_encoder"]["rank"] == [4, 4]
    assert found["dtypes"] == {"float16": len(load_file(tmp_path / "x.safetensors"))}
    assert found["family"] == "SD 1.x" and found["layout"] == "kohya" and found["kinds"] == ["LoRA"]
    assert found["trained"]["steps"] == found["metadata"]["ss_steps"] == "7"
    assert found["loads_in"] == EVERYWHERE and not found["notes"]
    assert found["bytes"] == (tmp_path / "x.safetensors").stat().st_size


@one_family
@pytest.mark.parametrize(
    ("settings", "layout", "kind", "loads"),
    [
        ({}, "kohya", "LoRA", EVERYWHERE),
        ({}, "diffusers", "LoRA", ["diffusers", "finetune"]),
        ({"dora": True}, "kohya", "DoRA", ["ComfyUI", "finetune"]),
        ({"dora": True}, "diffusers", "DoRA", ["diffusers", "finetune"]),
        ({"algorithm": "loha"}, "kohya", "LoHa", ["A1111", "Forge", "ComfyUI", "finetune"]),
        ({"algorithm": "lokr"}, "kohya", "LoKr", ["A1111", "Forge", "ComfyUI", "finetune"]),
    ],
)
def test_kinds_and_the_programs_that_load_them(
    settings: dict[str, Any], layout: str, kind: str, loads: list[str], backbone: Backbone, tmp_path: Path
) -> None:
    writer = {"kohya": write_kohya, "diffusers": write_diffusers}[layout]
    lora = trained_lora(backbone, **settings)
    writer(tmp_path / "x.safetensors", lora, {})
    lora.detach()
    found = describe(tmp_path / "x.safetensors", backbone)
    assert (found["kinds"], found["layout"], found["loads_in"]) == ([kind], layout, loads)
    change = by_peft(backbone, tmp_path / "x.safetensors")
    if kind != "DoRA":
        whole = sum(tensor.double().square().sum().item() for tensor in change.values())
        assert found["norm"] == pytest.approx(math.sqrt(whole), rel=1e-4)


@one_family
def test_other_layouts(backbone: Backbone, tmp_path: Path) -> None:
    loha, file = trained_lora(backbone, algorithm="loha"), tmp_path / "x.safetensors"
    save_file({n: t.contiguous() for n, t in diffusers_tensors(loha.weights()).items()}, file)
    loha.detach()
    found = describe(file, backbone)
    assert (found["layout"], found["kinds"], found["loads_in"]) == ("diffusers", ["LoHa"], ["finetune"])

    lora = trained_lora(backbone)
    write_kohya(tmp_path / "k.safetensors", lora, {})
    write_diffusers(tmp_path / "d.safetensors", lora, {})
    lora.detach()
    tensors = load_file(tmp_path / "d.safetensors")
    bare = {name.removeprefix("unet."): tensor for name, tensor in tensors.items()}
    for layout, spelled in {
        "diffusers' training scripts": convert_state_dict_to_diffusers(tensors),
        "PEFT": {f"base_model.model.{name}": tensor for name, tensor in bare.items()},
        "diffusers, without a prefix": bare,
    }.items():
        save_file(spelled, file)
        found = describe(file, backbone)
        assert found["layout"] == layout and found["loads_in"] == ["finetune"]

    # Other trainers give layers their own alphas, which diffusers looks up by names from before PEFT.
    tensors = load_file(tmp_path / "k.safetensors")
    tensors[next(name for name in tensors if name.endswith(".alpha"))] *= 2
    save_file(tensors, file)
    found = describe(file, backbone)
    assert "diffusers" not in found["loads_in"] and "alphas differ (unet)" in found["notes"][0]


@one_family
@pytest.mark.parametrize("layers", [["q_proj"], ["q_proj", "out_proj"]])
def test_diffusers_misses_a_text_encoders_attention_without_its_output(
    layers: list[str], backbone: Backbone, tiny_folder: Path, tmp_path: Path
) -> None:
    lora = trained_lora(backbone, text_encoder=True)
    ends = ("attn1.to_q", *layers)
    chosen = {key: layer for key, layer in lora.weights().layers.items() if key[1].endswith(ends)}
    lora.detach()
    for layout in ("kohya", "diffusers"):
        file = tmp_path / f"{layout}.safetensors"
        write_lora(file, LoRAWeights(chosen), backbone, {}, layout=layout)  # type: ignore[arg-type]
        found = describe(file, backbone)
        if layout == "diffusers" or "out_proj" in layers:
            assert "diffusers" in found["loads_in"]
            assert len(by_diffusers(tiny_folder, file)) == len(chosen)
        else:
            assert "diffusers" not in found["loads_in"] and "without out_proj" in found["notes"][0]
            with pytest.raises(ValueError, match="infer state dict type"):
                by_diffusers(tiny_folder, file)


@one_family
def test_a_word_in_a_loras_file(backbone: Backbone, tmp_path: Path) -> None:
    lora = trained_lora(backbone, placeholder="<mycat>", vectors=2)
    write_kohya(tmp_path / "x.safetensors", lora, {})
    lora.detach()
    found = describe(tmp_path / "x.safetensors", backbone)
    assert found["words"] == [{"word": "<mycat>", "vectors": 2}]
    assert found["loads_in"] == ["A1111", "finetune"] and "diffusers refuses" in found["notes"][0]


@pytest.mark.parametrize("made", ["[]", "{", '{"tool": 1}', '{"inputs": [3]}', '{"tuned": {}, "tool": ""}'])
def test_odd_metadata_of_strangers_do_no_harm(made: str, loaded: dict[str, Backbone], tmp_path: Path) -> None:
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {"lora_down.weight": torch.ones(1, 16), "lora_up.weight": torch.ones(16, 1)}
    odd = {
        "finetune.made_by": made,
        "ss_tag_frequency": '{"a": 3, "b": {"cat": "x"}}',
        "finetune.recipe": "[1]",
    }
    save_file({f"{key}.{kind}": tensor for kind, tensor in tensors.items()}, tmp_path / "x.safetensors", odd)
    found = describe(tmp_path / "x.safetensors", loaded["sd1"])
    assert found["origin"] is None and found["metadata"] == odd and found["trained"] == {"tags": {"cat": 0}}


def test_blocks() -> None:
    names = {
        "up_blocks.10.resnets.0.conv1": "unet up_blocks.10",
        "mid_block.resnets.0.conv1": "unet mid_block",
        "down_blocks.1.attentions.0.proj_in": "unet down_blocks.1",
        "time_embedding.linear_1": "unet time_embedding",
        "conv_out": "unet conv_out",
        "conv_in": "unet conv_in",
    }
    rows = {("unet", name): name for name in names} | {("text_encoder_2", "text_model.x"): "2"}
    assert {name: block_of(("unet", name)) for name in names} == names
    assert list(by_block(rows)) == [
        "text_encoder_2", "unet conv_in", "unet time_embedding", "unet down_blocks.1", "unet mid_block",
        "unet up_blocks.10", "unet conv_out",
    ]  # fmt: skip


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_model_of_a_strangers_file_is_found_by_its_sizes(family: Any, tmp_path: Path) -> None:
    """A LoRA of one layer of the published size, without metadata, is read with its family's structure."""
    bare = published_skeleton(family)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    out, width = bare.unet.get_submodule(name).weight.shape
    tensors = {"lora_down.weight": torch.ones(2, width), "lora_up.weight": torch.ones(out, 2)}
    save_file(
        {f"{bare.kohya_name('unet', name)}.{k}": t for k, t in tensors.items()}, tmp_path / "x.safetensors"
    )
    backbone = structure_for([tmp_path / "x.safetensors"], None, ModelSection(name="not/here"))
    assert backbone.family == family
    found = describe(tmp_path / "x.safetensors", backbone)
    assert found["blocks"] == [
        {"block": "unet mid_block", "layers": 1, "rank": [2, 2], "alpha": [2, 2],
         "norm": pytest.approx(2 * math.sqrt(out * width))}
    ]  # fmt: skip


def test_the_model_that_is_named_decides(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    ones = {"lora_down.weight": torch.ones(1, 7), "lora_up.weight": torch.ones(7, 1)}
    file = tmp_path / "x.safetensors"
    save_file({f"lora_unet_x_attn2_to_k.{k}": t for k, t in ones.items()}, file)
    named, told = (ModelSection(name=str(tiny_models[f])) for f in ("sd1", "sdxl"))
    assert structure_for([file], named, told).family == "sd1"
    assert structure_for([file], None, told).family == "sdxl"
    save_file({"lora_te2_x.alpha": torch.ones(1)}, file)
    (tmp_path / "pictures").mkdir()  # what metadata name may be something else here
    assert structure_for([file], None, ModelSection(name=str(tmp_path / "pictures"))).name == "sdxl"
    save_file({f"lora_unet_x_attn2_to_k.{k}": t for k, t in ones.items()}, file)
    with pytest.raises(ModelError, match="no model 'not/here' on this machine"):
        structure_for([file], ModelSection(name="not/here"), told)
    with pytest.raises(WeightsError, match="Nothing in this file tells"):
        structure_for([file], None, None)
    save_file({"double_blocks.0.lora_down.weight": torch.ones(1, 7)}, file)
    with pytest.raises(WeightsError, match="made for Flux"):
        structure_for([file], None, None)
