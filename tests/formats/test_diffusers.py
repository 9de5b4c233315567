"""LoRA files as diffusers writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig

from finetune.adapters import Hadamard, LoRAWeights, LowRank
from finetune.backbones import Backbone
from finetune.backbones.tensors import read_tensors
from finetune.formats import write_diffusers
from finetune.formats.diffusers import readable
from tests.formats.conftest import trained_lora


def test_diffusers_metadata_is_diffusers_own(backbone: Backbone, tmp_path: Path) -> None:
    """Read back by diffusers' own function, it makes a PEFT configuration of the right size."""
    lora = trained_lora(backbone, text_encoder=True, conv_rank=3)
    write_diffusers(tmp_path / "pytorch_lora_weights.safetensors", lora, {"finetune.step": "3"})
    cls = StableDiffusionXLPipeline if backbone.family == "sdxl" else StableDiffusionPipeline
    tensors, _, metadata = cls.lora_state_dict(tmp_path, return_lora_metadata=True)
    config = LoraConfig(**{k.removeprefix("unet."): v for k, v in metadata.items() if k.startswith("unet.")})
    ranks = {config.r, *config.rank_pattern.values()}
    assert ranks == {3, 4}
    rank = {name.rpartition(".lora_B")[0]: t.shape[1] for name, t in tensors.items() if ".lora_B." in name}
    for name, size in rank.items():
        if name.startswith("unet."):
            layer = name.removeprefix("unet.")
            assert size == config.rank_pattern.get(f"^{layer}", config.r)
            assert layer in config.target_modules
    assert config.alpha_pattern == config.rank_pattern and config.lora_alpha == config.r
    assert metadata["text_encoder.r"] == 4
    endings = [f"{name}_proj" for name in ("k", "out", "q", "v")]  # in all versions of transformers
    assert metadata["text_encoder.target_modules"] == endings


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_diffusers_file_carries_both(backbone: Backbone, tmp_path: Path) -> None:
    write_diffusers(tmp_path / "d.safetensors", trained_lora(backbone), {"finetune.step": "7"})
    _, told = read_tensors(tmp_path / "d.safetensors")
    assert told["finetune.step"] == "7" and told["format"] == "pt"
    assert json.loads(told["lora_adapter_metadata"])["unet.r"] == 4


@pytest.mark.parametrize(("rank", "as_lora"), [(8, True), (9, False)])
def test_a_loha_is_an_equal_lora_up_to_rank_64(rank: int, as_lora: bool) -> None:
    drawn = torch.Generator().manual_seed(0)
    a, b, c, d = (torch.randn(shape, generator=drawn) for shape in ((90, rank), (rank, 100)) * 2)
    loha = Hadamard(a, b, c, d, 3.0, (90, 100))
    (layer,) = readable(LoRAWeights({("unet", "to_q"): loha})).layers.values()
    assert isinstance(layer, LowRank) is as_lora
    torch.testing.assert_close(layer.delta(), 3 / rank * (a @ b) * (c @ d), rtol=1e-4, atol=1e-4)
