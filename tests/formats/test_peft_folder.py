"""Files as PEFT and diffusers write them, by their own code, read with ours."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from finetune.backbones import Backbone
from finetune.errors import WeightsError
from finetune.export import Job, export, what_is
from finetune.formats import apply_lora, read_lora, write_kohya
from finetune.recipes.model import model_of
from tests.formats.conftest import trained_lora

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT, about its own classes and transformers'
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)
TARGETS = ["to_q", "to_v", "ff.net.0.proj"]
CONFIGS: dict[str, Any] = {
    "lora": lambda: LoraConfig(
        r=4, lora_alpha=2, target_modules=TARGETS, rank_pattern={"to_v": 2}, alpha_pattern={"to_v": 7}
    ),
    "rslora": lambda: LoraConfig(r=4, lora_alpha=2, target_modules=TARGETS, use_rslora=True),
    "dora": lambda: LoraConfig(r=4, lora_alpha=2, target_modules=[*TARGETS, "conv1"], use_dora=True),
    "loha": lambda: LoHaConfig(r=3, alpha=5, target_modules=[*TARGETS, "conv1"], alpha_pattern={"to_v": 1}),
    "lokr": lambda: LoKrConfig(r=2, alpha=5, target_modules=TARGETS, decompose_factor=2),
    "whole lokr": lambda: LoKrConfig(r=64, alpha=16, target_modules=TARGETS),
}


@torch.no_grad()
def moved(module: Any) -> None:
    """Adapters as if trained."""
    drawn = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if any(kind in name for kind in ("lora_A", "lora_B", "hada_", "lokr_", "magnitude")):
            parameter += 0.2 * torch.randn(parameter.shape, generator=drawn).abs()


def merged_by_us(backbone: Backbone, path: Path) -> dict[tuple[str, str], Tensor]:
    """The weights of every part with the LoRA merged in."""
    own = copy.deepcopy(backbone)
    apply_lora(own, read_lora(path, own)).merge()
    return {(p, n): t for p, root in own.module_roots().items() for n, t in root.state_dict().items()}


def same(ours: dict[tuple[str, str], Tensor], part: str, theirs: Any, before: Any) -> None:
    """Fails unless the weights are equal, and others than before."""
    changed, old = 0, before.state_dict()
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(ours[part, name], weight, rtol=1e-5, atol=1e-5)
        changed += not torch.equal(weight, old[name])
    assert changed > 3


@pytest.mark.parametrize("family", ["sd1", "sdxl"], indirect=True)
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_of_save_pretrained(kind: str, backbone: Backbone, tmp_path: Path) -> None:
    model = get_peft_model(copy.deepcopy(backbone.unet), CONFIGS[kind]())
    moved(model)
    model.save_pretrained(tmp_path / "mylora")
    theirs = PeftModel.from_pretrained(copy.deepcopy(backbone.unet), tmp_path / "mylora").merge_and_unload()
    same(merged_by_us(backbone, tmp_path / "mylora"), "unet", theirs, backbone.unet)


@pytest.mark.parametrize("family", ["sd1", "sdxl"], indirect=True)
def test_folders_of_all_parts(backbone: Backbone, tmp_path: Path) -> None:
    theirs: dict[str, Any] = {}
    for part, root in backbone.module_roots().items():
        targets = TARGETS if part == "unet" else ["q_proj", "v_proj"]
        text = part.startswith("text")
        patterns = {"^encoder.layers.0.self_attn.q_proj": 9} if text else {}
        config = LoraConfig(r=4, lora_alpha=2, target_modules=targets, alpha_pattern=patterns)
        model = get_peft_model(copy.deepcopy(root), config)
        moved(model)
        model.save_pretrained(tmp_path / "all" / part)
        theirs[part] = model.merge_and_unload()
    ours = merged_by_us(backbone, tmp_path / "all")
    for part, root in backbone.module_roots().items():
        same(ours, part, theirs[part], root)
        alone = merged_by_us(backbone, tmp_path / "all" / part)  # its name says which part it is
        same(alone, part, theirs[part], root)


@one_family
def test_our_own_folders_come_back(backbone: Backbone, fresh: Any, tmp_path: Path) -> None:
    lora = trained_lora(backbone, text_encoder=True, block_rank={"mid_block": 2})
    recipe = json.dumps({"model": {"name": "storybook"}})
    write_kohya(tmp_path / "k.safetensors", lora, {"finetune.recipe": recipe})
    job = Job(tmp_path / "k.safetensors", fresh(), tmp_path / "peft")
    export("peft", what_is(job.source), job)
    ours, first = (merged_by_us(fresh(), path) for path in (tmp_path / "peft", job.source))
    for key, weight in first.items():
        torch.testing.assert_close(ours[key], weight, rtol=1e-5, atol=1e-5)
    assert what_is(tmp_path / "peft").kind == "lora"
    section = model_of(tmp_path / "peft")
    assert section is not None and section.name == "storybook"


@pytest.mark.parametrize("old", [False, True], ids=["now", "before PEFT"])
def test_save_lora_weights_of_diffusers(old: bool, backbone: Backbone, family: str, tmp_path: Path) -> None:
    """As diffusers' training scripts call it; before PEFT, names ended in `lora.down.weight`."""
    states: dict[str, dict[str, Tensor]] = {}
    theirs: dict[str, Any] = {}
    for part, root in backbone.module_roots().items():
        targets = ["k_proj", "out_proj"] if part.startswith("text") else ["to_k", "to_out.0"]
        config = LoraConfig(r=4, lora_alpha=4, target_modules=targets)
        model = get_peft_model(copy.deepcopy(root), config)
        moved(model)
        state = {n.removeprefix("base_model.model."): t for n, t in get_peft_model_state_dict(model).items()}
        states[part] = convert_state_dict_to_diffusers(state) if old else state
        theirs[part] = model.merge_and_unload()
    pipeline: Any = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    named = {f"{part}_lora_layers": state for part, state in states.items()}
    pipeline.save_lora_weights(tmp_path, **named)
    ours = merged_by_us(backbone, tmp_path)
    for part, root in backbone.module_roots().items():
        same(ours, part, theirs[part], root)


@one_family
def test_folders_that_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    model = get_peft_model(copy.deepcopy(backbone.unet), CONFIGS["lora"]())
    model.save_pretrained(tmp_path / "x")
    config = tmp_path / "x" / "adapter_config.json"

    def refused(told: str) -> None:
        with pytest.raises(WeightsError, match=told) as caught:
            read_lora(tmp_path / "x", backbone)
        assert caught.value.exit_code == 2 and caught.value.fix

    good = config.read_text()
    config.write_text("{")
    refused("cannot be read")
    config.write_text(good.replace('"LORA"', '"OFT"'))
    refused("kind OFT")
    config.write_text(good)
    save_file(
        {"base_model.model.nowhere.lora_A.weight": torch.ones(1, 1)},
        config.parent / "adapter_model.safetensors",
    )
    refused("match no layer")
    (config.parent / "adapter_model.safetensors").unlink()
    refused("no adapter_model.safetensors")
