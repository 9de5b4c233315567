"""A DoRA as a plain LoRA, against PEFT's own merged weights and plain linear algebra."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from finetune.adapters import LowRank
from finetune.backbones import Backbone
from finetune.errors import ConfigError
from finetune.export import Job, Made, export
from finetune.export.plain import plain
from finetune.formats import apply_lora, read_lora, write_kohya
from tests.formats.conftest import trained_lora


def written(lora: Path, backbone: Backbone, out: Path, **how: int) -> float:
    """Writes the plain LoRA; gives the error that the user is told, in percent."""
    told = export("plain-lora", Made("lora", lora), Job(lora, backbone, out, **how))  # type: ignore[arg-type]
    return float(told.split("by ")[1].split("%")[0])


Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "mid_block.resnets.0.conv1"


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
@pytest.mark.parametrize("rank", [3, 1000])
def test_the_change_of_each_layer(rank: int, backbone: Backbone, tmp_path: Path) -> None:
    before = {name: backbone.unet.get_submodule(name).weight.detach().clone() for name in (Q, CONV)}
    lora = trained_lora(backbone, dora=True, conv_rank=2)
    write_kohya(tmp_path / "dora.safetensors", lora, {"finetune.step": "9"})
    lora.detach()
    restore = apply_lora(backbone, read_lora(tmp_path / "dora.safetensors", backbone)).merge()
    layers = {name: backbone.unet.get_submodule(name) for name in (Q, CONV)}
    changes = {name: (layers[name].weight - weight).detach().flatten(1) for name, weight in before.items()}
    restore()

    error = written(tmp_path / "dora.safetensors", backbone, tmp_path / "plain.safetensors", rank=rank)
    read = read_lora(tmp_path / "plain.safetensors", backbone)
    for name, change in changes.items():
        layer = read.layers["unet", name]
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        best = left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]
        torch.testing.assert_close(layer.delta().flatten(1), best, atol=1e-4, rtol=1e-4)
        assert layer.magnitude is None and layer.rank == min(rank, len(values))  # type: ignore[union-attr]
        assert torch.equal(backbone.unet.get_submodule(name).weight, before[name])
    assert 1 < error < 100 if rank == 3 else error == 0
    with safe_open(tmp_path / "plain.safetensors", "pt") as opened:
        told = opened.metadata()
        assert not any("dora" in name for name in opened.keys())  # noqa: SIM118
    assert told["finetune.step"] == "9" and told["ss_network_module"] == "networks.lora"
    assert "dora_wd" not in json.loads(told["ss_network_args"])


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_others_stay_as_they_are_and_nothing_is_overwritten(backbone: Backbone, tmp_path: Path) -> None:
    lora = trained_lora(backbone)
    write_kohya(tmp_path / "x.safetensors", lora, {})
    lora.detach()
    out = tmp_path / "new" / "plain.safetensors"
    assert written(tmp_path / "x.safetensors", backbone, out) == 0
    for key, layer in read_lora(tmp_path / "x.safetensors", backbone).layers.items():
        torch.testing.assert_close(read_lora(out, backbone).layers[key].delta(), layer.delta())
    with pytest.raises(ConfigError, match="never overwritten"):
        written(tmp_path / "x.safetensors", backbone, out)


def test_a_row_of_zeros_stays_one() -> None:
    weight = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    layer = LowRank(torch.zeros(1, 2), torch.zeros(2, 1), 1.0, magnitude=torch.tensor([0.0, 10.0]))
    lora, cut, _ = plain(layer, weight, 2)
    torch.testing.assert_close(lora.delta(), torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    assert cut < 1e-12
