"""LoRA files as kohya's scripts write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from finetune.backbones import Backbone
from finetune.formats import write_kohya
from tests.formats.conftest import trained_lora


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
@pytest.mark.parametrize(
    ("settings", "module", "dim", "alpha", "arguments"),
    [
        ({"rank": 4, "alpha": 2.0}, "networks.lora", "4", "2", {}),
        ({"rank": 4, "alpha": 2.0, "rslora": True}, "networks.lora", "4", "4", {}),
        (
            {"rank": 4, "alpha": 2.0, "conv_rank": 2, "conv_alpha": 0.5},
            "networks.lora",
            "4",
            "2",
            {"conv_dim": "2", "conv_alpha": "0.5"},
        ),
        (
            {"rank": 2, "alpha": 2.0, "dora": True},
            "lycoris.kohya",
            "2",
            "2",
            {"algo": "lora", "dora_wd": "True", "wd_on_output": "True"},
        ),
        (
            {"algorithm": "loha", "rank": 2, "alpha": 1.5, "conv_rank": 3},
            "lycoris.kohya",
            "2",
            "1.5",
            {"algo": "loha", "conv_dim": "3", "conv_alpha": "3"},
        ),
        (
            {"algorithm": "lokr", "rank": 1, "conv_rank": 2, "conv_alpha": 0.5},
            "lycoris.kohya",
            "1",
            "2",
            {"algo": "lokr", "factor": "-1", "conv_dim": "2", "conv_alpha": "0.5"},  # -1 is LyCORIS's default
        ),
        (
            {"algorithm": "lokr", "rank": 1, "factor": 2},
            "lycoris.kohya",
            "1",
            "2",
            {"algo": "lokr", "factor": "2"},
        ),
    ],
)
def test_network(
    settings: dict[str, Any],
    module: str,
    dim: str,
    alpha: str,
    arguments: dict[str, str],
    backbone: Backbone,
    tmp_path: Path,
) -> None:
    write_kohya(tmp_path / "k.safetensors", trained_lora(backbone, **settings), {"ss_seed": "1"})
    with safe_open(tmp_path / "k.safetensors", "pt") as file:
        told = file.metadata()
    assert (told["ss_network_module"], told["ss_network_dim"], told["ss_network_alpha"]) == (
        module,
        dim,
        alpha,
    )
    assert json.loads(told["ss_network_args"]) == arguments
    assert told["ss_seed"] == "1"
    assert "lora_adapter_metadata" not in told  # with it, diffusers refuses files that have alphas


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_half_precision_file(backbone: Backbone, tmp_path: Path) -> None:
    lora = trained_lora(backbone)
    write_kohya(tmp_path / "k.safetensors", lora, {}, dtype=torch.float16)
    assert {t.dtype for t in load_file(tmp_path / "k.safetensors").values()} == {torch.float16}


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_each_part_has_one_alpha_the_commonest(backbone: Backbone, tmp_path: Path) -> None:
    """Files are read as alpha/rank · up · down, and layers of that alpha are as they were trained."""
    lora = trained_lora(backbone, alpha=3.0, conv_rank=2, conv_alpha=5.0, text_encoder=True)
    write_kohya(tmp_path / "k.safetensors", lora, {})
    tensors = load_file(tmp_path / "k.safetensors")
    layers = lora.weights().layers
    assert {layer.alpha for layer in layers.values()} == {3.0, 5.0}
    assert {tensor.item() for key, tensor in tensors.items() if key.endswith(".alpha")} == {3.0}
    for (part, name), layer in layers.items():
        up, factor = tensors[f"{backbone.kohya_name(part, name)}.lora_up.weight"], layer.alpha / 3
        torch.testing.assert_close(up, layer.factors()["lora_B.weight"] * factor)
