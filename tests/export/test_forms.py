"""Every form, read by the library it is for or by plain linear algebra."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.adapters import ControlNet, LoRA
from finetune.backbones import Backbone
from finetune.backbones.controlnet import read_branch
from finetune.backbones.words import Word
from finetune.config import ControlNetSection
from finetune.errors import ConfigError, DataError, WeightsError
from finetune.export import Job, Made, check_form, export, what_is
from finetune.export.job import data_url
from finetune.formats import (
    read_embedding,
    read_lora,
    write_control_lora,
    write_controlnet,
    write_diffusers,
    write_embedding,
    write_kohya,
)
from tests.adapters.test_controlnet import stirred
from tests.backbones.test_single_file import read as read_checkpoint
from tests.formats.conftest import trained_lora
from tests.tiny import Family

Fresh = Callable[[], Backbone]


def written(form: str, source: Path, backbone: Backbone, out: Path, **how: Any) -> Path:
    """Exports what `source` is."""
    made = what_is(source)
    check_form(form, made, out, how.get("weight", 1.0), how.get("rank"))
    export(form, made, Job(made.path, backbone, out, **how))
    return out


def deltas(file: Path, backbone: Backbone) -> dict[tuple[str, str], Tensor]:
    """The change of each layer that a LoRA file holds."""
    return {key: layer.delta() for key, layer in read_lora(file, backbone).layers.items()}


def same(one: dict[Any, Tensor], other: dict[Any, Tensor]) -> None:
    """Fails unless both hold the same."""
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, other[key], rtol=1e-5, atol=1e-6)


def weights_of(lora: LoRA) -> dict[str, Tensor]:
    """The weights of the UNet's adapted layers as PEFT's own merging makes them; takes the adapter off."""
    unet: Any = lora.backbone.unet
    names = [name for part, name in lora.weights().layers if part == "unet"]
    for name in names:
        unet.get_submodule(name).merge()
    merged = {name: unet.get_submodule(name).base_layer.weight.detach().clone() for name in names}
    for name in names:
        unet.get_submodule(name).unmerge()
    lora.detach()
    return merged


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
@pytest.mark.filterwarnings("ignore")  # between PEFT and transformers
def test_peft_reads_the_text_encoder(fresh: Fresh, tmp_path: Path) -> None:
    backbone = fresh()
    lora = trained_lora(backbone, text_encoder=True)
    write_kohya(tmp_path / "k.safetensors", lora, {})
    learned = {k[1]: v.delta() for k, v in lora.weights().layers.items() if k[0] == "text_encoder"}
    other = fresh()
    folder = written("peft", tmp_path / "k.safetensors", other, tmp_path / "peft")
    encoder = other.text_encoders[0]
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    peft: Any = PeftModel.from_pretrained(encoder, folder / "text_encoder").merge_and_unload()
    changed = {name: w - before[name] for name, w in peft.state_dict().items() if "_proj.weight" in name}
    for name, delta in learned.items():
        key = next(k for k in changed if f"{name}.weight".endswith(k))
        torch.testing.assert_close(changed[key], delta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_the_weight_is_multiplied_in(form: str, fresh: Fresh, tmp_path: Path) -> None:
    lora = trained_lora(fresh())
    write_kohya(tmp_path / "k.safetensors", lora, {})
    other = fresh()
    out = written(form, tmp_path / "k.safetensors", other, tmp_path / "o.safetensors", weight=-0.5)
    same(deltas(out, other), {k: d * -0.5 for k, d in deltas(tmp_path / "k.safetensors", other).items()})


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_the_weight_of_a_dora_cannot_be(fresh: Fresh, tmp_path: Path) -> None:
    write_kohya(tmp_path / "k.safetensors", trained_lora(fresh(), dora=True), {})
    with pytest.raises(WeightsError, match="in proportion"):
        written("kohya", tmp_path / "k.safetensors", fresh(), tmp_path / "o.safetensors", weight=0.5)
    assert not (tmp_path / "o.safetensors").exists()


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_a_whole_model_as_one_file(family: Family, tiny_folder: Path, fresh: Fresh, tmp_path: Path) -> None:
    backbone = fresh()
    lora = trained_lora(backbone)
    write_diffusers(tmp_path / "run" / "pytorch_lora_weights.safetensors", lora, {"finetune.step": "9"})
    merged = weights_of(lora)
    other = fresh()
    file = written("single-file", tmp_path / "run", other, tmp_path / "one.safetensors")
    folder = written("merged", tmp_path / "run", other, tmp_path / "folder")
    again = written("single-file", folder, load(folder), tmp_path / "again.safetensors")
    for path in (file, again):
        read = read_checkpoint(path, tiny_folder, family)
        for name, weight in merged.items():
            torch.testing.assert_close(read.unet.get_submodule(name).weight, weight, rtol=1e-4, atol=1e-5)
        same(dict(read.vae.state_dict()), dict(other.vae.state_dict()))
    half = written("merged", folder, load(folder), tmp_path / "half", dtype=torch.bfloat16)
    stored = load_file(half / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert "merged" in (half / "finetune.json").read_text()  # still says where it is from


def load(folder: Path) -> Backbone:
    """The model in a diffusers folder."""
    from finetune.backbones import load_backbone
    from finetune.config import ModelSection

    return load_backbone(ModelSection(name=str(folder)))


def test_a_control_lora_is_read(backbone: Backbone, tmp_path: Path) -> None:
    adapter = stirred(ControlNet(backbone, ControlNetSection(rank=2)))
    write_control_lora(tmp_path / "c.safetensors", adapter, {})
    expected = adapter.weights()
    branch = read_branch(tmp_path / "c.safetensors", backbone)
    same(dict(branch.state_dict()), expected)
    own = {weight.data_ptr() for weight in backbone.unet.parameters()}
    assert own.isdisjoint(weight.data_ptr() for weight in branch.parameters())  # it may be trained


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"adapter.body.0.in_conv.weight": torch.ones(2)}, "T2I-Adapter"),
        ({"x": torch.ones(2)}, "not a ControlNet"),
        ({"zero_convs.0.0.weight": torch.ones(2)}, "another model"),
        (None, "truncated"),
    ],
)
def test_other_files_are_named(
    tensors: dict[str, Tensor] | None, words: str, backbone: Backbone, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"zip") if tensors is None else save_file(tensors, file)
    with pytest.raises(WeightsError, match=words):
        read_branch(file, backbone)


def test_the_word_of_a_lora(fresh: Fresh, tmp_path: Path) -> None:
    backbone = fresh()
    lora = trained_lora(backbone, placeholder="<mycat>", vectors=2)
    write_kohya(tmp_path / "k.safetensors", lora, {})
    word = lora.word()
    assert word is not None
    other = fresh()
    file = written("embedding", tmp_path / "k.safetensors", other, tmp_path / "mycat.safetensors")
    read = read_embedding(file, other)
    assert read.text == "<mycat>" and all(map(torch.equal, read.rows, word.rows))
    again = written("embedding", file, other, tmp_path / "half.safetensors", dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(again).values()} == {torch.float16}


def test_what_things_are(backbone: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    adapter = ControlNet(backbone, ControlNetSection())
    (tmp_path / "run" / "controlnet").mkdir(parents=True)
    write_controlnet(tmp_path / "run" / "controlnet", adapter, {})
    rows = tuple(torch.ones(1, encoder.config.hidden_size) for encoder in backbone.text_encoders)
    (tmp_path / "word").mkdir()
    write_embedding(tmp_path / "word" / "learned_embeds.safetensors", Word("<x>", rows), {}, named=True)
    assert what_is(tmp_path / "run").kind == "controlnet"
    alone = tmp_path / "run" / "controlnet" / "diffusion_pytorch_model.safetensors"
    assert what_is(alone).kind == "controlnet"
    assert what_is(tiny_folder) == Made("model", tiny_folder)
    assert what_is(tmp_path / "word").kind == "embedding"
    with pytest.raises(WeightsError, match="no such file or folder"):
        what_is(tmp_path / "none")


@pytest.mark.parametrize(
    ("form", "kind", "out", "weight", "rank", "words"),
    [
        ("controlnet", "lora", "x", 1.0, None, "made from a ControlNet"),
        ("merged", "lora", "x.safetensors", 1.0, None, "writes a folder"),
        ("kohya", "lora", "x", 1.0, None, r"Name it x\.safetensors"),
        ("kohya", "lora", "x.safetensors", 1.0, 4, "--rank has no effect"),
        ("plain-lora", "lora", "x.safetensors", 0.5, None, "--weight has no effect"),
        ("single-file", "model", "x.safetensors", 0.5, None, "--weight has no effect"),
        ("kohya", "lora", "there.safetensors", 1.0, None, "never overwritten"),
    ],
)
def test_what_makes_no_sense_is_refused(
    form: str, kind: Any, out: str, weight: float, rank: int | None, words: str, tmp_path: Path
) -> None:
    (tmp_path / "there.safetensors").touch()
    with pytest.raises(ConfigError) as error:
        check_form(form, Made(kind, Path("run")), tmp_path / out, weight, rank)
    assert words.replace("\\", "") in str(error.value)


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_a_thumbnail_goes_into_the_metadata(fresh: Fresh, tmp_path: Path) -> None:
    write_kohya(tmp_path / "k.safetensors", trained_lora(fresh()), {})
    Image.new("RGB", (300, 700), "red").save(tmp_path / "cat.png")
    url = data_url(tmp_path / "cat.png")
    out = written("kohya", tmp_path / "k.safetensors", fresh(), tmp_path / "o.safetensors", thumbnail=url)
    with safe_open(out, framework="pt") as file:
        kind, _, content = file.metadata()["modelspec.thumbnail"].partition(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/jpeg" and picture.size == (256, 256)
    assert np.abs(np.asarray(picture).astype(int) - (255, 0, 0)).max() < 5
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="thumbnail cannot be used"):
        data_url(tmp_path / "no.png")
