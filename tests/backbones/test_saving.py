"""Saved models load as they were, under the classic names."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from tokenizers import CharBPETokenizer

from finetune.backbones import Backbone, load_backbone
from finetune.backbones.part import read_json
from finetune.backbones.quiet import quiet
from finetune.backbones.saving import save_folder
from finetune.config import ModelSection
from finetune.errors import WeightsError


def test_what_is_saved_loads_as_it_was(backbone: Backbone, tmp_path: Path) -> None:
    save_folder(backbone, tmp_path)
    loaded = load_backbone(ModelSection(name=str(tmp_path)))
    assert loaded.fingerprint_text() == backbone.fingerprint_text()
    assert loaded.fingerprint_vae() == backbone.fingerprint_vae()
    assert loaded.prediction_type == backbone.prediction_type
    expected = backbone.unet.state_dict()
    for name, tensor in DiffusionPipeline.from_pretrained(tmp_path).unet.state_dict().items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("dtype", [None, torch.float16], ids=str)
def test_configurations_are_those_that_diffusers_writes(
    dtype: torch.dtype | None, backbone: Backbone, tmp_path: Path
) -> None:
    save_folder(backbone, tmp_path / "ours", dtype)
    pipeline = copy.deepcopy(backbone.pipeline())
    if dtype is not None:
        pipeline.to(dtype)
    with quiet():
        pipeline.save_pretrained(tmp_path / "theirs")
    ours, theirs = (
        {f.relative_to(tmp_path / who): read_json(f) for f in (tmp_path / who).rglob("*.json")}
        for who in ("ours", "theirs")
    )
    for content in theirs.values():
        for about_the_writer in ("_name_or_path", "is_local", "local_files_only"):
            content.pop(about_the_writer, None)
    assert {file: ours[file] for file in theirs} == theirs
    for name in ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_names_and_vocabulary_are_the_classic_ones(backbone: Backbone, tmp_path: Path) -> None:
    save_folder(backbone, tmp_path, torch.float16)
    weights = load_file(tmp_path / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in weights)
    assert {w.dtype for w in weights.values()} == {torch.float16}
    files = [str(tmp_path / "tokenizer" / name) for name in ("vocab.json", "merges.txt")]
    reader = CharBPETokenizer(*files, suffix="</w>", unk_token="<|endoftext|>", lowercase=True)
    assert reader.encode("cat dog").ids == backbone.tokenizers[0]("cat dog").input_ids[1:-1]
    assert load_backbone(ModelSection(name=str(tmp_path))).unet.dtype == torch.float32


def test_nothing_tells_where_the_writer_had_the_model(tiny_folder: Path, tmp_path: Path) -> None:
    # A model that was saved, loaded from there and saved again.
    save_folder(load_backbone(ModelSection(name=str(tiny_folder))), tmp_path / "once")
    save_folder(load_backbone(ModelSection(name=str(tmp_path / "once"))), tmp_path / "twice")
    written = [file.read_text(encoding="utf-8") for file in (tmp_path / "twice").rglob("*.json")]
    assert written
    for text in written:
        assert str(tmp_path) not in text
        assert "local_files_only" not in text


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
@pytest.mark.parametrize(("value", "dtype"), [(70000.0, torch.float16), (torch.nan, None)])
def test_what_is_not_finite_is_not_written(
    value: float, dtype: torch.dtype | None, backbone: Backbone, tmp_path: Path
) -> None:
    backbone.unet.conv_in.bias.data[0] = value
    with pytest.raises(WeightsError, match=r"conv_in\.bias holds NaN or infinity") as caught:
        save_folder(backbone, tmp_path, dtype)
    assert caught.value.where == "unet/diffusion_pytorch_model.safetensors" and caught.value.fix
