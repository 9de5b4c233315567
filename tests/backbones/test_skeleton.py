"""A model's structure without weights is that of the loaded model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from finetune.backbones import Backbone
from finetune.backbones.skeleton import published_skeleton, skeleton
from finetune.config import ModelSection
from finetune.errors import ModelError
from finetune.formats import write_checkpoint
from finetune.formats.keys import LayerNames
from tests.families import Family


def shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    modules = {**backbone.module_roots(), "vae": backbone.vae}
    return {
        f"{part}.{name}": tuple(tensor.shape)
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def test_a_folders_structure(family: Family, tiny_folder: Path, loaded: dict[str, Backbone]) -> None:
    bare = skeleton(ModelSection(name=str(tiny_folder)))
    assert bare is not None and bare.family == family and bare.device == torch.device("meta")
    assert shapes(bare) == shapes(loaded[family])
    assert LayerNames(bare).shapes == LayerNames(loaded[family]).shapes


def test_an_inpainting_models_structure(inpainting_models: dict[str, Path]) -> None:
    bare = skeleton(ModelSection(name=str(inpainting_models["sd1"])))
    assert bare is not None and bare.inpaints


@pytest.mark.parametrize(("family", "layers"), [("sd1", 686), ("sd2", 686), ("sdxl", 1680)])
def test_a_published_models_structure(family: Family, layers: int) -> None:
    """The number of tensors in the published UNets."""
    assert len(published_skeleton(family).unet.state_dict()) == layers


def test_a_single_file_has_its_familys(loaded: dict[str, Backbone], tmp_path: Path) -> None:
    # A tiny model's file shows its family, and the published sizes are assumed.
    write_checkpoint(tmp_path / "tiny.safetensors", loaded["sdxl"], {}, torch.float16)
    bare = skeleton(ModelSection(name=str(tmp_path / "tiny.safetensors")))
    assert bare is not None and shapes(bare) == shapes(published_skeleton("sdxl"))


def test_a_single_file_of_an_inpainting_model(loaded_inpainting: dict[str, Backbone], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny.safetensors", loaded_inpainting["sd1"], {}, torch.float16)
    bare = skeleton(ModelSection(name=str(tmp_path / "tiny.safetensors")))
    assert bare is not None and bare.inpaints and bare.unet.conv_in.weight.shape[1] == 9


def test_what_is_not_here_has_none() -> None:
    assert skeleton(ModelSection(name="someone/else")) is None
    assert skeleton(ModelSection(name="stabilityai/stable-diffusion-xl-base-1.0")) is not None


def test_a_damaged_configuration_is_named(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_models["sd1"], tmp_path / "m")
    file = tmp_path / "m" / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"block_out_channels": [3]}))
    with pytest.raises(ModelError, match="cannot be read"):
        skeleton(ModelSection(name=str(tmp_path / "m")))
