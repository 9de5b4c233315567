"""A LoRA from the difference of two models makes of the first the best approximation of the second."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from finetune.adapters.inject import adaptable
from finetune.backbones import Backbone, load_stored
from finetune.backbones.saving import save_folder
from finetune.config import ModelSection
from finetune.errors import ConfigError, ModelError
from finetune.tools import Limit, Target, extract
from finetune.tools.extract import told_by
from tests.tools.changes import assert_equal, best, by_diffusers

one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)
SECTION = ModelSection(name="/home/somebody/models/base", revision="main")
LAYERS = (
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.resnets.0.conv1",  # wider than high, since its kernel counts
    "up_blocks.1.upsamplers.0.conv",
)


@torch.no_grad()
def tuned(backbone: Backbone) -> tuple[Backbone, dict[str, Tensor]]:
    """A copy in which some layers of each part have moved, and by what, as `by_diffusers` names them."""
    other, drawn = copy.deepcopy(backbone), torch.Generator().manual_seed(3)
    moved: dict[str, Tensor] = {}
    for part, module in other.module_roots().items():
        layers = adaptable(module)
        ends = LAYERS if part == "unet" else ("layers.0.self_attn.out_proj", "layers.0.mlp.fc1")
        chosen = [name for name in layers if name.endswith(ends)]
        for name in chosen:
            weight = layers[name].weight
            before = weight.clone()  # type: ignore[operator]
            weight.add_(0.05 * torch.randn(weight.shape, generator=drawn))  # type: ignore[operator,arg-type]
            moved[f"{part}.{name}.weight"] = (weight - before).detach()  # type: ignore[operator]
    return other, moved


def test_the_best_approximation_of_each_layer(backbone: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    other, moved = tuned(backbone)
    before = backbone.fingerprint()
    found = extract(backbone, other, Target(tmp_path / "x.safetensors"), Limit(3), SECTION)
    expected = {name: best(change, 3) for name, change in moved.items()}
    assert len(expected) == 5 + 2 * (backbone.family == "sdxl")
    assert_equal(by_diffusers(tiny_folder, tmp_path / "x.safetensors"), expected)
    assert backbone.fingerprint() == before and not found.elsewhere and found.held == 1
    assert {kept.lora.rank for kept in found.layers.values()} == {3}
    for (part, _), kept in found.layers.items():
        assert part in backbone.module_roots()
        assert 0 < kept.lost < kept.whole


@one_family
def test_with_all_ranks_it_is_the_other_model(backbone: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    other, moved = tuned(backbone)
    extract(backbone, other, Target(tmp_path / "x.safetensors", "diffusers"), Limit(energy=1.0), SECTION)
    assert_equal(by_diffusers(tiny_folder, tmp_path / "x.safetensors"), moved)


@pytest.mark.parametrize("family", ["sd1", "sdxl"], indirect=True)
def test_every_layer_of_a_model(backbone: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    """Whatever was trained, diffusers loads what it is left as."""
    other, expected = copy.deepcopy(backbone), {}
    for part, module in other.module_roots().items():
        for name, layer in adaptable(module).items():
            layer.weight.data += 0.01  # type: ignore[operator]
            expected[f"{part}.{name}.weight"] = torch.full(tuple(layer.weight.shape), 0.01)  # type: ignore[arg-type]
    extract(backbone, other, Target(tmp_path / "x.safetensors"), Limit(1), SECTION)
    assert_equal(by_diffusers(tiny_folder, tmp_path / "x.safetensors"), expected)


@one_family
def test_what_a_lora_cannot_hold_is_told(backbone: Backbone, tmp_path: Path) -> None:
    other, moved = tuned(backbone)
    with torch.no_grad():
        other.unet.conv_in.bias += 0.5
        other.unet.conv_norm_out.weight += 0.25
        other.text_encoders[0].get_input_embeddings().weight[7] += 1
        other.vae.quant_conv.weight[0] += 2
    found = extract(backbone, other, Target(tmp_path / "x.safetensors"), Limit(2), SECTION)
    unet = 4 * 0.25 + 4 * 0.0625  # four channels each
    vae = 4 * other.vae.quant_conv.weight[0].numel()
    assert found.elsewhere == pytest.approx({"unet": unet, "text_encoder": 16, "vae": vae})
    inside = sum(change.double().square().sum().item() for change in moved.values())
    assert found.held == pytest.approx(inside / (inside + unet + 16), rel=1e-5)


@one_family
def test_a_model_stored_more_coarsely(backbone: Backbone, tmp_path: Path) -> None:
    """Rounding to fp16 is no change of a layer that was not trained."""
    other, moved = tuned(backbone)
    save_folder(other, tmp_path / "tuned", torch.float16)
    coarse = load_stored(ModelSection(name=str(tmp_path / "tuned")))
    assert coarse.dtype == torch.float16
    found = extract(backbone, coarse, Target(tmp_path / "x.safetensors"), Limit(2), SECTION)
    assert len(found.layers) == len(moved) and not found.elsewhere


@one_family
def test_the_file_says_what_it_was_made_from(backbone: Backbone, tmp_path: Path) -> None:
    other, _ = tuned(backbone)
    other.name = str(tmp_path / "mycat")
    target, made = Target(tmp_path / "x.safetensors", dtype=torch.float16), {"finetune.step": "9"}
    extract(backbone, other, target, Limit(2, 0.9), SECTION, made)
    with safe_open(target.path, "pt") as opened:
        told = opened.metadata()
        assert {opened.get_tensor(name).dtype for name in opened.keys()} == {torch.float16}  # noqa: SIM118
    assert told["ss_base_model_version"] == "sd_v1" and told["modelspec.architecture"].endswith("/lora")
    assert told["ss_sd_model_name"] == "base" and told["modelspec.title"] == "x" == told["ss_output_name"]
    model = json.loads(told["finetune.recipe"])["model"]
    assert (model["name"], model["revision"]) == ("base", "main") and "allow_pickle" not in model
    about = json.loads(told["finetune.made_by"])
    assert (about["tool"], about["rank"], about["energy"]) == ("extract", 2, 0.9)
    assert about["base"]["fingerprint"] == backbone.fingerprint()
    assert about["tuned"] == {"model": "mycat", "fingerprint": other.fingerprint(), "metadata": made}


@one_family
def test_models_without_a_lora_between_them(
    backbone: Backbone, loaded: dict[str, Backbone], inpainting: Backbone, tmp_path: Path
) -> None:
    target = Target(tmp_path / "x.safetensors")
    same = copy.deepcopy(backbone)
    same.unet.conv_in.bias.data += 1
    for other, words in (
        (same, "do not differ in any layer"),
        (loaded["sd2"], "SD 1.x, but .* is SD 2.x"),
        (inpainting, r"unet.conv_in.weight is \(4, 4, 3, 3\) in one and \(4, 9, 3, 3\) in the other"),
    ):
        with pytest.raises(ModelError, match=words):
            extract(backbone, other, target, Limit(2), SECTION)
    with pytest.raises(ConfigError, match="how much is kept"):
        extract(backbone, same, target, Limit(), SECTION)
    assert not target.path.exists()


def test_how_a_model_was_made(tmp_path: Path) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "model_index.json").touch()
    assert told_by(tmp_path / "run") == {}
    (tmp_path / "run" / "model" / "finetune.json").write_text('{"finetune.step": "3"}')
    assert told_by(tmp_path / "run") == told_by(tmp_path / "run" / "model") == {"finetune.step": "3"}
    (tmp_path / "run" / "model" / "finetune.json").write_text("[")
    assert told_by(tmp_path / "run") == told_by(tmp_path / "none") == {}
