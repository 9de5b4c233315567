"""The whole model with the LoRA merged in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from finetune.backbones import Backbone
from finetune.errors import ConfigError, WeightsError
from finetune.export import Job, Made, export
from finetune.formats import write_diffusers, write_kohya
from tests.formats.conftest import picture, trained_lora


def merged(lora: Path, backbone: Backbone, out: Path, **how: Any) -> Path:
    """The model with the LoRA in it, in a diffusers folder."""
    export("merged", Made("lora", lora), Job(lora, backbone, out, **how))
    return out


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_the_model_in_memory_stays_as_it_was(backbone: Backbone, tmp_path: Path) -> None:
    before = {n: t.clone() for m in backbone.module_roots().values() for n, t in m.state_dict().items()}
    lora = trained_lora(backbone, dora=True, conv_rank=2, text_encoder=True)
    learned = picture(backbone.pipeline())
    write_diffusers(tmp_path / "run" / "pytorch_lora_weights.safetensors", lora, {"finetune.step": "9"})
    lora.detach()
    base = picture(backbone.pipeline())
    out = merged(tmp_path / "run", backbone, tmp_path / "merged")

    pipeline = DiffusionPipeline.from_pretrained(out, local_files_only=True)
    assert np.abs(picture(pipeline) - learned).max() < 1 < np.abs(base - learned).max()
    after = {n: t for m in backbone.module_roots().values() for n, t in m.state_dict().items()}
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    about = json.loads((out / "finetune.json").read_text())
    assert about["finetune.step"] == "9" and about["merged"] == "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_half_precision_and_scale(backbone: Backbone, tmp_path: Path) -> None:
    lora = trained_lora(backbone)
    write_kohya(tmp_path / "x.safetensors", lora, {})
    lora.detach()
    base = picture(backbone.pipeline())
    out = merged(tmp_path / "x.safetensors", backbone, tmp_path / "out", weight=0.0, dtype=torch.float16)
    unet = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in unet.values()} == {torch.float16}
    pipeline = DiffusionPipeline.from_pretrained(out, dtype=torch.float32, local_files_only=True)
    assert np.abs(picture(pipeline) - base).max() < 3
    assert backbone.dtype == torch.float32


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_nothing_is_overwritten_or_left(backbone: Backbone, tmp_path: Path) -> None:
    lora = trained_lora(backbone)
    write_kohya(tmp_path / "x.safetensors", lora, {})
    lora.detach()
    full, file, empty = tmp_path / "full", tmp_path / "file", tmp_path / "empty"
    full.mkdir()
    (full / "precious").write_text("mine")
    file.write_text("mine")
    empty.mkdir()
    for taken in (full, file):
        with pytest.raises(ConfigError, match="never overwritten"):
            merged(tmp_path / "x.safetensors", backbone, taken)
    assert (full / "precious").read_text() == file.read_text() == "mine"

    save_file({"lora_unet_x.alpha": torch.ones(1)}, tmp_path / "bad.safetensors")
    present = sorted(tmp_path.iterdir())
    with pytest.raises(WeightsError):
        merged(tmp_path / "bad.safetensors", backbone, tmp_path / "new")
    with pytest.raises(WeightsError, match="finite"):
        merged(tmp_path / "x.safetensors", backbone, tmp_path / "new", weight=float("inf"))
    assert sorted(tmp_path.iterdir()) == present
    assert not any("lora" in name for name in backbone.unet.state_dict())
    assert merged(tmp_path / "x.safetensors", backbone, empty) == empty
