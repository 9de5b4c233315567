"""A resized LoRA is the best approximation of the original, measured by diffusers and PEFT."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.backbones import Backbone
from finetune.errors import ConfigError, WeightsError
from finetune.formats import read_lora, read_tensors, write_diffusers, write_kohya
from finetune.tools import Limit, Target, resize
from finetune.tools.programs import kinds_of
from tests.formats.conftest import trained_lora
from tests.tools.changes import assert_equal, best, by_diffusers, by_peft

WIDE = {"targets": "all", "text_encoder": True, "conv_rank": 3}
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


def made(backbone: Backbone, file: Path, layout: str = "kohya", **settings: Any) -> Path:
    lora = trained_lora(backbone, **settings)
    {"kohya": write_kohya, "diffusers": write_diffusers}[layout](file, lora, {"ss_seed": "1"})
    lora.detach()
    return file


@pytest.mark.parametrize(
    ("family", "before", "after"),
    [("sd1", "kohya", "kohya"), ("sd1", "diffusers", "kohya"), ("sdxl", "kohya", "diffusers")],
    indirect=["family"],
)
def test_each_layer_is_the_best_of_its_rank(
    before: str, after: Any, backbone: Backbone, tiny_folder: Path, tmp_path: Path
) -> None:
    file = made(backbone, tmp_path / "x.safetensors", before, **WIDE)
    out = tmp_path / "out" / "small.safetensors"
    resized = resize(file, backbone, Target(out, after), Limit(2))
    original = by_diffusers(tiny_folder, file)
    expected = {name: best(change, 2) for name, change in original.items()}
    assert any("text_encoder" in name for name in expected)
    assert_equal(by_diffusers(tiny_folder, out), expected)

    lost = sum((original[name] - expected[name]).double().square().sum().item() for name in original)
    whole = sum(change.double().square().sum().item() for change in original.values())
    assert resized.error == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    assert set(resized.before.values()) == {3, 4}


@one_family
@pytest.mark.parametrize("algorithm", ["loha", "lokr"])
def test_other_algorithms_by_their_whole_change(algorithm: str, backbone: Backbone, tmp_path: Path) -> None:
    file = made(backbone, tmp_path / "x.safetensors", algorithm=algorithm, conv_rank=2)
    resize(file, backbone, Target(tmp_path / "small.safetensors"), Limit(3))
    expected = {name: best(change, 3) for name, change in by_peft(backbone, file).items()}
    assert_equal(by_peft(backbone, tmp_path / "small.safetensors"), expected)


@one_family
def test_a_strangers_locon_with_a_core_in_fp8(backbone: Backbone, tmp_path: Path) -> None:
    """Each layer's alpha is its own, and the change is alpha/rank · up · core · down (LyCORIS)."""
    conv = backbone.unet.mid_block.resnets[0].conv1.weight
    drawn = torch.Generator().manual_seed(0)
    stored = {
        "lora_down.weight": torch.randn(3, conv.shape[1], 1, 1, generator=drawn),
        "lora_mid.weight": torch.randn(3, 3, 3, 3, generator=drawn),
        "lora_up.weight": torch.randn(conv.shape[0], 3, 1, 1, generator=drawn),
        "alpha": torch.tensor(1.5),
    }
    stored = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in stored.items()}
    save_file(
        {f"lora_unet_mid_block_resnets_0_conv1.{n}": t for n, t in stored.items()}, tmp_path / "x.safetensors"
    )
    resize(tmp_path / "x.safetensors", backbone, Target(tmp_path / "small.safetensors"), Limit(2))
    down, core, up = (stored[f"lora_{part}.weight"].float() for part in ("down", "mid", "up"))
    change = 1.5 / 3 * torch.einsum("om,mnkl,ni->oikl", up[:, :, 0, 0], core, down[:, :, 0, 0])
    expected = {"unet.mid_block.resnets.0.conv1.weight": best(change, 2)}
    assert_equal(by_peft(backbone, tmp_path / "small.safetensors"), expected)
    assert {t.dtype for t in load_file(tmp_path / "small.safetensors").values()} == {torch.float32}


@one_family
def test_energy(backbone: Backbone, tmp_path: Path) -> None:
    file = made(backbone, tmp_path / "x.safetensors")
    resized = resize(file, backbone, Target(tmp_path / "small.safetensors"), Limit(energy=0.8))
    original, small = read_lora(file, backbone), read_lora(tmp_path / "small.safetensors", backbone)
    ranks = set()
    for key, layer in original.layers.items():
        values = torch.linalg.svdvals(layer.delta().flatten(1).double()).square()
        smallest = next(r for r in range(1, 5) if values[:r].sum() >= 0.8 * values.sum())
        assert small.layers[key].rank == smallest == resized.layers[key].lora.rank
        ranks.add(smallest)
    assert len(ranks) > 1  # else the test would show nothing


@one_family
def test_a_rank_that_is_enough_keeps_everything(
    backbone: Backbone, tiny_folder: Path, tmp_path: Path
) -> None:
    file = made(backbone, tmp_path / "x.safetensors")
    resized = resize(file, backbone, Target(tmp_path / "same.safetensors"), Limit(64))
    assert_equal(by_diffusers(tiny_folder, tmp_path / "same.safetensors"), by_diffusers(tiny_folder, file))
    assert resized.error == 0


@one_family
def test_the_file_says_how_it_was_made(backbone: Backbone, tmp_path: Path) -> None:
    file = made(backbone, tmp_path / "x.safetensors")
    tensors, told = read_tensors(file)
    stale = {"sshs_model_hash": "abc", "ss_output_name": "x", "finetune.step": "9"}
    save_file({name: tensor.half() for name, tensor in tensors.items()}, file, told | stale)
    resize(file, backbone, Target(tmp_path / "small.safetensors"), Limit(2, 0.99))
    tensors, told = read_tensors(tmp_path / "small.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert told["finetune.step"] == "9" and told["ss_seed"] == "1" and told["ss_network_dim"] == "2"
    assert told["ss_output_name"] == "small" and told["sshs_model_hash"] != "abc"
    about = json.loads(told["finetune.made_by"])
    assert (about["tool"], about["rank"], about["energy"]) == ("resize", 2, 0.99)
    (source,) = about["inputs"]
    assert source["file"] == "x.safetensors"
    assert source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert source["metadata"]["ss_network_dim"] == "4" and "ss_seed" not in source["metadata"]

    # Resized again, it still tells the first time.
    resize(tmp_path / "small.safetensors", backbone, Target(tmp_path / "less.safetensors"), Limit(1))
    told = read_tensors(tmp_path / "less.safetensors")[1]
    before = json.loads(told["finetune.made_by"])["inputs"][0]["metadata"]
    assert json.loads(before["finetune.made_by"]) == about


@one_family
def test_nothing_is_overwritten_unless_forced(backbone: Backbone, tmp_path: Path) -> None:
    file, out = made(backbone, tmp_path / "x.safetensors"), tmp_path / "out.safetensors"
    out.write_text("precious")
    with pytest.raises(ConfigError, match="never overwritten"):
        resize(file, backbone, Target(out), Limit(2))
    assert out.read_text() == "precious"
    for taken in (tmp_path, tmp_path / "lora.bin"):
        with pytest.raises(ConfigError):
            resize(file, backbone, Target(taken), Limit(2))
    resize(file, backbone, Target(out, force=True), Limit(2))
    resize(out, backbone, Target(out, force=True), Limit(1))  # in place
    assert {layer.rank for layer in read_lora(out, backbone).layers.values()} == {1}
    with pytest.raises(ConfigError, match="how much is kept"):
        resize(file, backbone, Target(tmp_path / "new.safetensors"), Limit())


@one_family
def test_what_cannot_be_resized_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(WeightsError, match=r"DoRA(.|\n)*--to plain-lora -o FILE --rank 4"):
        resize(made(backbone, tmp_path / "dora.safetensors", dora=True), backbone, Target(out), Limit(2))
    broken = made(backbone, tmp_path / "x.safetensors")
    tensors = load_file(broken)
    del tensors[next(name for name in tensors if "lora_up" in name)]
    save_file(tensors, broken)
    with pytest.raises(WeightsError, match="missing"):
        resize(broken, backbone, Target(out), Limit(2))
    large = made(backbone, tmp_path / "large.safetensors")
    tensors = {name: tensor * 1e6 for name, tensor in load_file(large).items() if "alpha" not in name}
    save_file(tensors, large)
    with pytest.raises(WeightsError, match="NaN or infinity"):  # too large for fp16
        resize(large, backbone, Target(out, dtype=torch.float16), Limit(2))
    assert not out.exists()


@one_family
def test_new_words_are_kept(backbone: Backbone, tmp_path: Path) -> None:
    lora = trained_lora(backbone, placeholder="<mycat>")
    write_kohya(tmp_path / "x.safetensors", lora, {})
    lora.detach()
    (before,) = read_lora(tmp_path / "x.safetensors", backbone).words
    resize(tmp_path / "x.safetensors", backbone, Target(tmp_path / "small.safetensors"), Limit(2))
    (after,) = read_lora(tmp_path / "small.safetensors", backbone).words
    assert after.text == "<mycat>" and all(map(torch.equal, after.rows, before.rows))
    with pytest.raises(ConfigError, match="cannot hold a new word"):
        resize(
            tmp_path / "x.safetensors", backbone, Target(tmp_path / "d.safetensors", "diffusers"), Limit(2)
        )


@one_family
def test_changes_of_norms_are_never_dropped_in_silence(backbone: Backbone, tmp_path: Path) -> None:
    file, unet = made(backbone, tmp_path / "x.safetensors"), backbone.unet
    tensors, told = read_tensors(file)
    size, key = unet.mid_block.attentions[0].norm.weight.shape, "lora_unet_mid_block_attentions_0_norm"
    norms = {f"{key}.w_norm": torch.ones(size), f"{key}.b_norm": torch.ones(size)}
    save_file(tensors | norms, file, told)
    with pytest.raises(WeightsError, match="changes biases or norms too"):
        resize(file, backbone, Target(tmp_path / "small.safetensors"), Limit(2))
    assert not (tmp_path / "small.safetensors").exists()
    assert "biases or norms" in kinds_of(read_lora(file, backbone))
