"""A VAE of the user's choice, and averaged weights, of checkpoints and folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from finetune.backbones import Backbone, load_backbone
from finetune.backbones.fingerprint import fingerprint
from finetune.backbones.single_file import load_single_file
from finetune.config import ModelSection
from finetune.errors import ModelError
from tests.backbones.test_single_file import read, state_of
from tests.tiny import tiny_pipeline

one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)
PREFIX = "first_stage_model."


@pytest.fixture(scope="module")
def other() -> Any:
    """The VAE of another tiny model."""
    return tiny_pipeline("sd1", seed=5).vae


def content(vae: Any) -> str:
    return fingerprint([vae], [vae.config])


def places(vae: Any, place: Path) -> dict[str, Path]:
    """The same VAE in every place that one is read from."""
    pipe: Any = tiny_pipeline("sd1", seed=5)
    pipe.save_pretrained(place / "folder")
    shutil.copytree(place / "folder", place / "run" / "model")
    original = {n: t for n, t in state_of(pipe).items() if n.startswith(PREFIX)}
    save_file(original, place / "prefixed.safetensors")
    save_file({n.removeprefix(PREFIX): t for n, t in original.items()}, place / "bare.safetensors")
    save_file(vae.state_dict(), place / "diffusers.safetensors")
    save_file(state_of(pipe), place / "whole.safetensors")
    named = ("prefixed", "bare", "diffusers", "whole")
    files = {name: place / f"{name}.safetensors" for name in named}
    return files | {"vae": place / "folder" / "vae", "model": place / "folder", "run": place / "run"}


@one_family
def test_a_vae_from_every_place(other: Any, tiny_folder: Path, tmp_path: Path) -> None:
    own = load_backbone(ModelSection(name=str(tiny_folder)))
    checkpoint = tmp_path / "no-vae.safetensors"
    state = state_of(tiny_pipeline("sd1"))
    save_file({n: t for n, t in state.items() if not n.startswith(PREFIX)}, checkpoint)
    for kind, path in places(other, tmp_path).items():
        for made in (
            load_backbone(ModelSection(name=str(tiny_folder), vae=path)),
            read(checkpoint, tiny_folder, "sd1", vae=path),
        ):
            assert made.fingerprint_vae() == content(other) != own.fingerprint_vae(), kind  # caches see it
            assert made.fingerprint_text() == own.fingerprint_text()
            assert any(f"The VAE is that of {path}" in note for note in made.notes)
            assert not any(p.requires_grad for p in made.vae.parameters())


@one_family
def test_without_a_vae_the_setting_is_named(other: Any, tiny_folder: Path, tmp_path: Path) -> None:
    state = state_of(tiny_pipeline("sd1"))
    file = tmp_path / "x.safetensors"
    save_file({n: t for n, t in state.items() if not n.startswith(PREFIX)}, file)
    with pytest.raises(ModelError, match="has no VAE") as caught:
        load_single_file(file, ModelSection(name=str(file)))
    assert "--vae PATH" in str(caught.value.fix)
    save_file({n: t for n, t in state.items() if not n.startswith("cond_stage_model")}, file)
    with pytest.raises(ModelError, match="no known text encoder"):  # a tiny one tells no family
        load_single_file(file, ModelSection(name=str(file)))
    folder = tmp_path / "folder"
    shutil.copytree(tiny_folder, folder)
    shutil.rmtree(folder / "vae")
    with pytest.raises(ModelError, match="has no VAE") as caught:
        load_backbone(ModelSection(name=str(folder)))
    assert "--vae PATH" in str(caught.value.fix)
    other.save_pretrained(tmp_path / "vae")
    made = load_backbone(ModelSection(name=str(folder), vae=tmp_path / "vae"))
    assert made.fingerprint_vae() == content(other)


@one_family
def test_what_is_no_vae_is_refused(tiny_folder: Path, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    (tmp_path / "x.pt").write_bytes(b"")
    save_file({"decoder.conv_in.weight": torch.ones(1)}, tmp_path / "part.safetensors")
    for path, told in {
        tmp_path / "nothing": "There is no VAE",
        tmp_path / "x.safetensors": "holds no VAE",
        tmp_path / "x.pt": "pickle",
        tmp_path: "no VAE of Stable Diffusion",
        tiny_folder / "unet": "no VAE of Stable Diffusion",
        tmp_path / "part.safetensors": ".",
        tiny_models["sdxl"]: "scaling factor is 0.13025, and this model's is 0.18215",
    }.items():
        with pytest.raises(ModelError, match=told) as caught:
            load_backbone(ModelSection(name=str(tiny_folder), vae=path))
        assert caught.value.exit_code == 2


# --- averaged weights -----------------------------------------------------------------------------


def averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the original code's `LitEma` names and keeps them: here each weight plus one."""
    unet = {n: t for n, t in state.items() if n.startswith("model.diffusion_model.")}
    return {f"model_ema.{n[len('model.') :].replace('.', '')}": t + 1 for n, t in unet.items()}


def test_averaged_weights_are_chosen(
    backbone: Backbone, tiny_folder: Path, family: Any, tmp_path: Path
) -> None:
    file, state = tmp_path / "x.safetensors", state_of(tiny_pipeline(family))
    counted = {"model_ema.num_updates": torch.tensor(9), "model_ema.decay": torch.tensor(0.99)}
    half = {name: t.half() for name, t in state.items()}
    save_file(half | averaged(state) | counted, file)
    chosen = read(file, tiny_folder, family, ema=True)
    found = chosen.unet.state_dict()
    for name, weight in backbone.unet.state_dict().items():
        assert torch.equal(found[name], weight + 1), name  # in fp32, as they are stored
    assert "The averaged (EMA) weights of the UNet are used (model.ema)." in chosen.notes
    regular = read(file, tiny_folder, family)
    assert any("--set model.ema=true" in note for note in regular.notes)
    stored = backbone.unet.state_dict()
    assert all(torch.equal(t, stored[n].half()) for n, t in regular.unet.state_dict().items())


@one_family
def test_averaged_weights_that_are_not_there(tiny_folder: Path, tmp_path: Path) -> None:
    file, state = tmp_path / "x.safetensors", state_of(tiny_pipeline("sd1"))
    some = averaged(state)
    some.pop(next(iter(some)))
    for content, told in ((state, "no averaged"), (state | some, "1 of [0-9]+ are missing")):
        save_file(content, file)
        with pytest.raises(ModelError, match=told):
            load_single_file(file, ModelSection(name=str(file), ema=True))
    with pytest.raises(ModelError, match="one set of weights"):
        load_backbone(ModelSection(name=str(tiny_folder), ema=True))
