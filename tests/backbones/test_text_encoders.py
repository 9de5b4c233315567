"""Text encoders of the user's choice, of checkpoints without any and in place of a model's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from finetune.backbones import load_backbone
from finetune.backbones.checkpoint import Header, family_of_checkpoint
from finetune.backbones.known import FAMILIES
from finetune.backbones.single_file import load_single_file
from finetune.backbones.skeleton import published_skeleton
from finetune.config import ModelSection
from finetune.errors import ModelError
from finetune.formats.families import TITLES
from tests.backbones.test_single_file import read, state_of
from tests.tiny import Family, tiny_pipeline

STARTS = ("cond_stage_model.", "conditioner.")


def test_a_checkpoint_without_text_encoders_takes_those_of_a_folder(
    family: Family, tiny_folder: Path, tmp_path: Path
) -> None:
    pipe = tiny_pipeline(family, seed=5)
    pipe.save_pretrained(tmp_path / "run" / "model")
    bare = {name: tensor for name, tensor in state_of(pipe).items() if not name.startswith(STARTS)}
    save_file(bare, tmp_path / "bare.safetensors")
    with pytest.raises(ModelError, match="has no text encoder") as caught:
        read(tmp_path / "bare.safetensors", tiny_folder, family)
    assert "--set model.text_encoders=FOLDER" in caught.value.fix
    whole = load_backbone(ModelSection(name=str(tmp_path / "run" / "model")))
    other = load_backbone(ModelSection(name=str(tiny_folder)))
    assert whole.fingerprint_text() != other.fingerprint_text()
    for made in (
        read(tmp_path / "bare.safetensors", tiny_folder, family, text_encoders=tmp_path / "run"),
        load_backbone(ModelSection(name=str(tiny_folder), text_encoders=tmp_path / "run" / "model")),
    ):
        # The tokenizers of both are the same.
        assert made.fingerprint_text() == whole.fingerprint_text()
        for ours, theirs in zip(made.text_encoders, whole.text_encoders, strict=True):
            assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
            assert not ours.training and not any(p.requires_grad for p in ours.parameters())
        assert any(f"of {tmp_path / 'run'}" in note for note in made.notes)


def test_the_family_of_a_checkpoint_without_text_encoders_is_that_of_its_unet(family: Family) -> None:
    """With the published widths: the names are those that the tiny model's file has."""
    unet = published_skeleton(family).unet
    width = unet.config.cross_attention_dim
    assert FAMILIES[family].encoder_classes and (family == "sdxl" or TITLES[width])
    start = "model.diffusion_model.input_blocks"
    shapes = {f"{start}.0.0.weight": (320, 4, 3, 3)}
    shapes[f"{start}.4.1.transformer_blocks.0.attn2.to_k.weight"] = (640, width)
    if family == "sdxl":
        shapes["model.diffusion_model.label_emb.0.0.weight"] = (1280, 2816)
    assert family_of_checkpoint(Header(shapes, {}), "x") == family


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_what_has_no_fitting_text_encoders_is_refused(
    tiny_folder: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny_models["sd2"], tmp_path / "wide")
    config = tmp_path / "wide" / "text_encoder" / "config.json"
    text = config.read_text()
    width = load_backbone(ModelSection(name=str(tiny_folder))).text_encoders[0].config.hidden_size
    config.write_text(text.replace(f'"hidden_size": {width}', f'"hidden_size": {2 * width}'))
    for path, told in {
        tmp_path / "nothing": "There is no text encoder",
        tiny_folder / "unet": "There is no text encoder",
        tmp_path / "wide": f"have {2 * width} values, and this model's {width}",
    }.items():
        with pytest.raises(ModelError, match=told) as caught:
            load_backbone(ModelSection(name=str(tiny_folder), text_encoders=path))
        assert caught.value.exit_code == 2
    with pytest.raises(ModelError, match="There is no 2 text encoders"):
        load_backbone(ModelSection(name=str(tiny_models["sdxl"]), text_encoders=tiny_folder))
    file = tmp_path / "sd1.safetensors"
    state = {n: t for n, t in state_of(tiny_pipeline("sd1")).items() if not n.startswith(STARTS)}
    odd = {n: torch.ones(len(t), 768) if n.endswith("attn2.to_k.weight") else t for n, t in state.items()}
    save_file(odd, file)
    with pytest.raises(ModelError, match="has no text encoder"):
        load_single_file(file, ModelSection(name=str(file)))
