"""Full differences, biases, norms and DoRA beyond PEFT's, by formulas written out here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finetune.adapters import LowRank
from finetune.backbones import Backbone
from finetune.backbones.names import live_text_name
from finetune.errors import WeightsError
from finetune.export import Job, Made, export
from finetune.formats import apply_lora, read_lora
from finetune.kernels import can_pack
from finetune.sampling.loras import merge_loras

Rows = dict[str, Tensor]
Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"  # 16 x 16, no bias
FF = "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"  # 128 x 16
CONV = "mid_block.resnets.0.conv1"  # 16 x 16 x 3 x 3
NORM = "mid_block.resnets.0.norm1"
TEXT = "text_model.encoder.layers.0.layer_norm1"
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 4


def by_input(weight: Tensor, change: Tensor, magnitude: Tensor) -> Tensor:
    """One number for each input channel: V[:, i] · m[i] / ‖V[:, i]‖."""
    made = weight + change
    for i in range(made.shape[1]):
        made[:, i] *= magnitude[i] / made[:, i].square().sum().sqrt()
    return made


def by_output(weight: Tensor, change: Tensor, magnitude: Tensor) -> Tensor:
    made = weight + change
    for i in range(made.shape[0]):
        made[i] *= magnitude[i] / made[i].square().sum().sqrt()
    return made


LOHA = {
    f"hada_w{i}_{half}": drawn(*((128, 2) if half == "a" else (2, 16)), seed=i)
    for i in (1, 2)
    for half in "ab"
}
LOKR = {"lokr_w1": drawn(4, 4), "lokr_w2": drawn(4, 4, 3, 3, seed=1)}
M16, M128 = drawn(16).abs() + 1, drawn(128).abs() + 1
LORA = {"lora_down.weight": drawn(2, 16), "lora_up.weight": drawn(128, 2), "alpha": torch.tensor(1.0)}
LOCON = {"lora_down.weight": drawn(2, 16, 3, 3), "lora_up.weight": drawn(16, 2, 1, 1)}
FORMS: dict[str, tuple[str, Rows, Callable[[Tensor], Tensor]]] = {
    "linear": (Q, {"diff": drawn(16, 16)}, lambda w: w + drawn(16, 16)),
    "convolution": (CONV, {"diff": drawn(16, 16, 3, 3)}, lambda w: w + drawn(16, 16, 3, 3)),
    "linear as a 1x1 convolution": (Q, {"diff": drawn(16, 16, 1, 1)}, lambda w: w + drawn(16, 16)),
    "norm": (NORM, {"w_norm": drawn(16)}, lambda w: w + drawn(16)),
    "norm as ComfyUI writes it": (NORM, {"diff": drawn(16)}, lambda w: w + drawn(16)),
    "dora by input": (
        FF,
        LORA | {"dora_scale": M16[None]},
        lambda w: by_input(w, 0.5 * LORA["lora_up.weight"] @ LORA["lora_down.weight"], M16),
    ),
    "dora of a convolution by input": (
        CONV,
        LOCON | {"dora_scale": M16.view(1, -1, 1, 1)},
        lambda w: by_input(w, torch.einsum("or,rikl->oikl", drawn(16, 2), drawn(2, 16, 3, 3)), M16),
    ),
    "dora of a loha": (
        FF,
        LOHA | {"dora_scale": M128[:, None]},
        lambda w: by_output(
            w,
            (LOHA["hada_w1_a"] @ LOHA["hada_w1_b"]) * (LOHA["hada_w2_a"] @ LOHA["hada_w2_b"]),
            M128,
        ),
    ),
    "dora of a lokr by input": (
        CONV,
        LOKR | {"dora_scale": M16.view(1, -1, 1, 1)},
        lambda w: by_input(w, torch.kron(LOKR["lokr_w1"][:, :, None, None], LOKR["lokr_w2"]), M16),
    ),
}


def write(folder: Path, named: dict[str, Rows], prefix: str = "lora_unet_") -> Path:
    """A file with kohya's names."""
    tensors = {
        f"{prefix}{name.replace('.', '_')}.{kind}": tensor.contiguous()
        for name, rows in named.items()
        for kind, tensor in rows.items()
    }
    save_file(tensors, folder / "x.safetensors")
    return folder / "x.safetensors"


def weight_of(backbone: Backbone, name: str, part: str = "unet") -> Tensor:
    """A parameter as the model computes with it."""
    root = backbone.module_roots()[part]
    module, _, kind = name.rpartition(".")
    layer: Any = root.get_submodule(module if part == "unet" else live_text_name(root, module))
    value: Tensor = getattr(layer, kind)
    return value.detach().clone()


@one_family
@pytest.mark.parametrize("form", FORMS)
def test_a_form_means_its_formula(form: str, backbone: Backbone, tmp_path: Path) -> None:
    name, rows, formula = FORMS[form]
    before = weight_of(backbone, f"{name}.weight")
    wanted = formula(before.clone())
    assert (wanted - before).abs().max() > 0.1
    weights = read_lora(write(tmp_path, {name: rows}), backbone)
    assert weights.has_dora == ("dora" in form)

    applied = apply_lora(backbone, weights)
    torch.testing.assert_close(weight_of(backbone, f"{name}.weight"), wanted)
    applied.set_scale(0.25)
    torch.testing.assert_close(weight_of(backbone, f"{name}.weight"), before + 0.25 * (wanted - before))
    restore = applied.merge()
    torch.testing.assert_close(weight_of(backbone, f"{name}.weight"), before + 0.25 * (wanted - before))
    assert type(backbone.unet.get_submodule(name)) in (nn.Linear, nn.Conv2d, nn.GroupNorm)
    restore()
    assert torch.equal(weight_of(backbone, f"{name}.weight"), before)


@one_family
@torch.no_grad()
def test_a_layer_may_have_a_lora_and_a_change_of_its_bias(backbone: Backbone, tmp_path: Path) -> None:
    layer: Any = backbone.unet.get_submodule(FF)
    weight, bias, x = layer.weight.clone(), layer.bias.clone(), drawn(3, 16, seed=5)
    file = write(tmp_path, {FF: LORA | {"diff_b": drawn(128)}})
    applied = apply_lora(backbone, read_lora(file, backbone), 0.5)
    change = LORA["lora_up.weight"] @ LORA["lora_down.weight"] / 2
    wanted = x @ (weight + change / 2).T + bias + drawn(128) / 2
    torch.testing.assert_close(backbone.unet.get_submodule(FF)(x), wanted)
    restore = applied.merge()
    torch.testing.assert_close(backbone.unet.get_submodule(FF)(x), wanted)
    restore()
    assert torch.equal(layer.weight, weight) and torch.equal(layer.bias, bias)


@one_family
def test_text_encoders_and_all_norms(backbone: Backbone, tmp_path: Path) -> None:
    file = write(tmp_path, {TEXT: {"w_norm": drawn(16), "b_norm": drawn(16, seed=1)}}, "lora_te_")
    weights = read_lora(file, backbone)
    assert not weights.layers and weights.vectors.keys() == {
        ("text_encoder", f"{TEXT}.weight"),
        ("text_encoder", f"{TEXT}.bias"),
    }
    before = {kind: weight_of(backbone, f"{TEXT}.{kind}", "text_encoder") for kind in ("weight", "bias")}
    apply_lora(backbone, weights)
    for seed, kind in enumerate(("weight", "bias")):
        now = weight_of(backbone, f"{TEXT}.{kind}", "text_encoder")
        torch.testing.assert_close(now, before[kind] + drawn(16, seed=seed))


@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
def test_both_spellings_of_sdxls_norms(backbone: Backbone, tmp_path: Path) -> None:
    for name in ("mid_block_resnets_0_norm1", "middle_block_0_in_layers_0"):
        weights = read_lora(write(tmp_path, {name: {"b_norm": drawn(16)}}), backbone)
        assert weights.vectors.keys() == {("unet", f"{NORM}.bias")}


@one_family
def test_changes_add_up_and_come_off_in_any_order(backbone: Backbone, tmp_path: Path) -> None:
    before = weight_of(backbone, f"{Q}.weight")
    applied = []
    for seed in (1, 2):
        rows = {Q: {"diff": drawn(16, 16, seed=seed)}}
        applied.append(apply_lora(backbone, read_lora(write(tmp_path, rows), backbone)))
    both = before + drawn(16, 16, seed=1) + drawn(16, 16, seed=2)
    torch.testing.assert_close(weight_of(backbone, f"{Q}.weight"), both)
    assert not can_pack(backbone.unet.get_submodule(Q))  # what is packed once would stay as it is
    assert torch.equal(weight_of(copy.deepcopy(backbone), f"{Q}.weight"), weight_of(backbone, f"{Q}.weight"))
    applied[0].remove()
    torch.testing.assert_close(weight_of(backbone, f"{Q}.weight"), before + drawn(16, 16, seed=2))
    applied[0].remove()  # once more does nothing
    applied[1].remove()
    assert torch.equal(weight_of(backbone, f"{Q}.weight"), before)


@one_family
def test_a_lora_on_a_changed_weight_is_not_merged_into_nowhere(backbone: Backbone, tmp_path: Path) -> None:
    lora = apply_lora(backbone, read_lora(write(tmp_path, {FF: LORA}), backbone))
    apply_lora(backbone, read_lora(write(tmp_path, {FF: {"diff": drawn(128, 16)}}), backbone))
    with pytest.raises(RuntimeError, match="merge that first"):
        lora.merge()


@one_family
def test_what_overflows_is_refused_and_undone(backbone: Backbone, tmp_path: Path) -> None:
    before = weight_of(backbone, f"{Q}.weight")
    applied = apply_lora(
        backbone, read_lora(write(tmp_path, {Q: {"diff": torch.full((16, 16), 3e38)}}), backbone), 10
    )
    with pytest.raises(ValueError, match="not finite"):
        applied.merge()
    assert torch.equal(weight_of(backbone, f"{Q}.weight"), before)


@one_family
def test_the_sampler_merges_them(backbone: Backbone, tmp_path: Path) -> None:
    """Also into weights in half precision, and beside others where a DoRA is among several."""
    backbone.to("cpu", torch.bfloat16)
    before = weight_of(backbone, f"{CONV}.weight")
    name, rows, formula = FORMS["dora of a convolution by input"]
    (tmp_path / "dora").mkdir()
    file, other = write(tmp_path / "dora", {name: rows}), write(tmp_path, {name: {"diff_b": drawn(16)}})
    alone = copy.deepcopy(backbone)
    merge_loras(alone, [(file, 1.0)])
    merged = weight_of(alone, f"{CONV}.weight")
    assert merged.dtype == torch.bfloat16
    torch.testing.assert_close(merged, formula(before.float()).bfloat16())
    bias = weight_of(backbone, f"{CONV}.bias").float()
    merge_loras(backbone, [(other, 1.0), (file, 1.0)])
    torch.testing.assert_close(weight_of(backbone, f"{CONV}.weight"), merged)
    torch.testing.assert_close(weight_of(backbone, f"{CONV}.bias"), (bias + drawn(16)).bfloat16())


# --- written again --------------------------------------------------------------------------------


def everything(folder: Path) -> Path:
    names = ("convolution", "norm", "dora by input")
    return write(folder, {FORMS[n][0]: FORMS[n][1] for n in names} | {Q: {"diff": drawn(16, 16)}})


@one_family
def test_kohya_keeps_every_tensor(backbone: Backbone, tmp_path: Path) -> None:
    file = everything(tmp_path)
    export("kohya", Made("lora", file), Job(file, backbone, tmp_path / "k.safetensors"))
    one, other = load_file(file), load_file(tmp_path / "k.safetensors")
    beside = f"lora_unet_{NORM.replace('.', '_')}.b_norm"  # A1111 reads a norm only with both
    assert other.keys() == one.keys() | {beside} and not other[beside].any()
    for key, tensor in one.items():
        torch.testing.assert_close(other[key], tensor)
    half = Job(file, backbone, tmp_path / "half.safetensors", weight=0.5)
    with pytest.raises(WeightsError, match="DoRA"):
        export("kohya", Made("lora", file), half)
    plain = write(tmp_path, {Q: {"diff": drawn(16, 16)}, NORM: {"w_norm": drawn(16)}})
    export("kohya", Made("lora", plain), Job(plain, backbone, tmp_path / "half.safetensors", weight=0.5))
    made = read_lora(tmp_path / "half.safetensors", backbone)
    torch.testing.assert_close(made.layers["unet", Q].delta(), drawn(16, 16) / 2)
    torch.testing.assert_close(made.vectors["unet", f"{NORM}.weight"], drawn(16) / 2)


@one_family
def test_a_merged_model_has_them(backbone: Backbone, tmp_path: Path) -> None:
    file = everything(tmp_path)
    before = {name: weight_of(backbone, f"{FORMS[name][0]}.weight") for name in ("norm", "dora by input")}
    export("merged", Made("lora", file), Job(file, backbone, tmp_path / "merged"))
    made = load_file(tmp_path / "merged" / "unet" / "diffusion_pytorch_model.safetensors")
    for name, weight in before.items():
        torch.testing.assert_close(made[f"{FORMS[name][0]}.weight"], FORMS[name][2](weight.clone()))
        assert torch.equal(weight_of(backbone, f"{FORMS[name][0]}.weight"), weight)


@one_family
@pytest.mark.parametrize("form", ["diffusers", "peft", "plain-lora"])
def test_what_has_no_place_is_refused(form: str, backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / ("out" if form == "peft" else "out.safetensors")

    def refused(named: dict[str, Rows], told: str) -> None:
        file = write(tmp_path, named)
        with pytest.raises(WeightsError, match=told) as caught:
            export(form, Made("lora", file), Job(file, backbone, out))
        assert "--to kohya" in str(caught.value.fix) and not out.exists()

    refused({NORM: {"w_norm": drawn(16)}, FF: LORA}, "biases and norms, and there are 1 .*norm1")
    if form != "plain-lora":
        refused({Q: {"diff": drawn(16, 16)}}, "full differences, which 1 layers have .*to_q")
        refused({FF: FORMS["dora by input"][1]}, "DoRA magnitudes by input")


@one_family
def test_as_a_plain_lora(backbone: Backbone, tmp_path: Path) -> None:
    named = {FORMS[n][0]: FORMS[n][1] for n in ("convolution", "dora by input")}
    before = weight_of(backbone, f"{FF}.weight")
    file, out = write(tmp_path, named), tmp_path / "plain.safetensors"
    export("plain-lora", Made("lora", file), Job(file, backbone, out, rank=16))
    made = read_lora(out, backbone)
    assert all(isinstance(layer, LowRank) and not layer.depends_on_weight for layer in made.layers.values())
    wanted = FORMS["dora by input"][2](before.clone()) - before
    torch.testing.assert_close(made.layers["unet", FF].delta(), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.layers["unet", CONV].delta(), drawn(16, 16, 3, 3), rtol=1e-4, atol=1e-5)


@one_family
@pytest.mark.parametrize(
    ("name", "rows", "told"),
    [
        (Q, {"diff": drawn(16, 15)}, r"\(16, 15\) for a layer of \(16, 16\)"),
        (Q, {"diff": drawn(16, 16) / 0}, "NaN"),
        (Q, {"diff_b": drawn(16)}, "the layer has none"),
        (Q, {"w_norm": drawn(16)}, "norm, and is none"),
        (NORM, {"w_norm": drawn(15)}, r"\(15,\) for 16 channels"),
        (NORM, {"b_norm": drawn(16) / 0}, "NaN"),
        (NORM, {"lora_down.weight": drawn(2, 16)}, "is a norm, which can have no down"),
        (FF, LORA | {"dora_scale": M16[None, :7]}, "7 DoRA magnitudes for 16 inputs"),
        (FF, LOHA | {"dora_scale": M16[:, None]}, "16 DoRA magnitudes for 128 outputs"),
    ],
)
def test_what_does_not_fit(name: str, rows: Rows, told: str, backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=told):
        read_lora(write(tmp_path, {name: rows}), backbone)
