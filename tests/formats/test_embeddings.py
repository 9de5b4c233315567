"""Files of new words: in plain diffusers, ours and other people's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.adapters import TextualInversion
from finetune.backbones import Backbone
from finetune.backbones.words import AddedWord
from finetune.config import EmbeddingSection, ModelSection
from finetune.errors import ModelError, WeightsError
from finetune.export import Job, Made, export
from finetune.formats import (
    apply_lora,
    read_embedding,
    read_lora,
    read_tensors,
    write_diffusers,
    write_embedding,
    write_kohya,
)
from finetune.sampling import Sampler
from tests.formats.conftest import trained_lora

Fresh = Callable[[], Backbone]
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


def learned(backbone: Backbone) -> TextualInversion:
    adapter = TextualInversion(
        backbone, EmbeddingSection(placeholder="<mycat>", vectors=3, initializer="cat")
    ).eval()
    drawn = torch.Generator().manual_seed(0)
    for parameter in adapter.trained().values():
        parameter.data += torch.randn(parameter.shape, generator=drawn)
    return adapter


@torch.no_grad()
def picture(pipeline: Any) -> np.ndarray[Any, Any]:
    pipeline.set_progress_bar_config(disable=True)
    drawn = torch.Generator().manual_seed(0)
    made = pipeline(
        "a red <mycat>", height=32, width=32, num_inference_steps=2, output_type="np", generator=drawn
    )
    result: np.ndarray[Any, Any] = made.images[0] * 255
    return result


def test_same_picture_everywhere(tiny_folder: Path, fresh: Fresh, tmp_path: Path) -> None:
    base, backbone = picture(fresh().pipeline()), fresh()
    word = learned(backbone).word()
    in_memory = picture(backbone.pipeline())
    assert np.abs(in_memory - base).max() > 3
    write_embedding(tmp_path / "learned_embeds.safetensors", word, {"finetune.step": "3"}, named=True)
    write_embedding(tmp_path / "mycat.safetensors", word, {}, named=False)

    pipeline = DiffusionPipeline.from_pretrained(tiny_folder, local_files_only=True)
    if len(word.rows) == 1:
        pipeline.load_textual_inversion(tmp_path)
        assert set(load_file(tmp_path / "mycat.safetensors")) == {"emb_params"}
    else:
        tensors = load_file(tmp_path / "mycat.safetensors")
        assert set(tensors) == {"clip_l", "clip_g"}
        for key, number in (("clip_l", ""), ("clip_g", "_2")):
            parts = {n: getattr(pipeline, n + number) for n in ("text_encoder", "tokenizer")}
            pipeline.load_textual_inversion({"<mycat>": tensors[key]}, **parts)
        # As docs/embedding.md says: the published config has an old end token.
        pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id
    assert np.abs(picture(pipeline) - in_memory).max() < 1

    for path in (tmp_path, tmp_path / "mycat.safetensors"):
        other = fresh()
        added = AddedWord(other, read_embedding(path, other))
        assert np.abs(picture(other.pipeline()) - in_memory).max() < 1
        added.remove()
        assert np.array_equal(picture(other.pipeline()), base)


def test_a_word_travels_with_its_lora(tiny_folder: Path, fresh: Fresh, tmp_path: Path) -> None:
    backbone = fresh()
    adapter = trained_lora(backbone, placeholder="<mycat>", vectors=2, initializer="cat")
    in_memory, word = picture(backbone.pipeline()), adapter.word()
    assert word is not None
    run = tmp_path / "run"
    run.mkdir()
    write_kohya(run / "mycat-lora.safetensors", adapter, {})
    write_diffusers(run / "pytorch_lora_weights.safetensors", adapter, {})
    write_embedding(run / "learned_embeds.safetensors", word, {}, named=True)
    bundled = {key for key in load_file(run / "mycat-lora.safetensors") if key.startswith("bundle_emb.")}
    two = len(word.rows) > 1
    keys = ("clip_l", "clip_g") if two else ("string_to_param.*",)
    assert bundled == {f"bundle_emb.<mycat>.{key}" for key in keys}

    base = picture(fresh().pipeline())
    for path in (run, run / "mycat-lora.safetensors"):
        other = fresh()
        applied = apply_lora(other, read_lora(path, other))
        assert np.abs(picture(other.pipeline()) - in_memory).max() < 1
        applied.remove()
        assert np.array_equal(picture(other.pipeline()), base)

    other = fresh()
    export("merged", Made("lora", run), Job(run, other, tmp_path / "model"))
    assert np.array_equal(picture(other.pipeline()), base)  # left as it was
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    assert np.abs(picture(pipeline) - in_memory).max() < 1


@one_family
@pytest.mark.parametrize("named", [True, False])
def test_what_a_file_says_of_itself(named: bool, backbone: Backbone, tmp_path: Path) -> None:
    write_embedding(tmp_path / "x.safetensors", learned(backbone).word(), {"finetune.step": "3"}, named=named)
    told = read_tensors(tmp_path / "x.safetensors")[1]
    assert told == {"format": "pt", "finetune.step": "3", "finetune.placeholder": "<mycat>"}
    assert read_embedding(tmp_path / "x.safetensors", backbone).text == "<mycat>"


@one_family
def test_other_peoples_files(backbone: Backbone, tmp_path: Path) -> None:
    def read(name: str, tensors: dict[str, Tensor], text: str | None = None) -> tuple[str, tuple[int, ...]]:
        save_file(tensors, tmp_path / f"{name}.safetensors")
        word = read_embedding(tmp_path / f"{name}.safetensors", backbone, text)
        return word.text, tuple(word.rows[0].shape)

    rows = torch.randn(2, 16)
    assert read("easynegative", {"emb_params": rows}) == ("easynegative", (2, 16))
    assert read("a", {"string_to_param.*": rows.half()}) == ("a", (2, 16))
    assert read("b", {"<cat-toy>": rows[0].clone()}) == ("<cat-toy>", (1, 16))
    assert read("c", {"<cat-toy>": rows}, "<other>") == ("<other>", (2, 16))
    assert read("d", {"toy": rows}) == ("toy", (2, 16))  # as diffusers saves a word without brackets


@one_family
@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"emb_params": torch.ones(1, 768)}, "a width of 16.$"),  # SD 1.x, as this model is
        ({"emb_params": torch.ones(1, 77)}, "a width of 16.$"),
        ({"emb_params": torch.ones(1, 1024)}, "They seem to be made for SD 2.x.$"),
        ({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, "seem to be made for SDXL.$"),
        ({"clip_l": torch.ones(2, 16), "clip_g": torch.ones(2, 16)}, "seem to be made for SDXL.$"),
        ({"emb_params": torch.full((1, 16), torch.nan)}, "NaN"),
        ({"emb_params": torch.ones(1, 16).int()}, "emb_params is int32"),
        ({"emb_params": torch.tensor(1.0)}, "not rows of numbers"),
        ({"emb_params": torch.ones(0, 16)}, "not rows of numbers"),
        ({"lora_unet_x.alpha": torch.ones(())}, "no embeddings"),
        ({"toy": torch.ones(1, 16), "other": torch.ones(1, 16)}, "no embeddings"),
        ({"toy": torch.ones(1, 1, 16)}, "no embeddings"),
    ],
)
def test_files_that_do_not_fit(
    tensors: dict[str, Tensor], told: str, backbone: Backbone, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError) as caught:
        read_embedding(tmp_path / "x.safetensors", backbone)
    assert re.search(told, caught.value.what) and caught.value.fix
    with pytest.raises(WeightsError, match="no such embedding"):
        read_embedding(tmp_path / "y.safetensors", backbone)


@one_family
def test_a_run_that_learned_a_word_alone_is_no_lora(backbone: Backbone, tmp_path: Path) -> None:
    word = learned(backbone).word()
    write_embedding(tmp_path / "learned_embeds.safetensors", word, {}, named=True)
    for path in (tmp_path, tmp_path / "learned_embeds.safetensors"):
        with pytest.raises(WeightsError, match="--embedding"):
            read_lora(path, backbone)


# --- pickles --------------------------------------------------------------------------------------


@one_family
def test_a_pickle_is_read_on_the_users_word_only(backbone: Backbone, tmp_path: Path) -> None:
    """With the fields that A1111's `Embedding.save` writes, and as diffusers' scripts wrote `.bin` files."""
    rows = torch.arange(32.0).view(2, 16)
    told = {"string_to_token": {"*": 265}, "name": "other", "step": 9, "sd_checkpoint": None}
    torch.save(told | {"string_to_param": {"*": torch.nn.Parameter(rows)}}, tmp_path / "mycat.pt")
    torch.save({"<mycat>": rows[0]}, tmp_path / "learned_embeds.bin")
    for name, text, wanted in (("mycat.pt", "mycat", rows), ("learned_embeds.bin", "<mycat>", rows[:1])):
        with pytest.raises(ModelError, match="explicit permission") as caught:
            read_embedding(tmp_path / name, backbone)
        assert "--set model.allow_pickle=true" in str(caught.value.fix)
        word = read_embedding(tmp_path / name, backbone, allow_pickle=True)
        assert word.text == text and torch.equal(word.rows[0], wanted)
        assert not word.rows[0].requires_grad


class Evil:
    """What a pickle could do: this creates a file while it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@one_family
def test_no_code_of_a_pickle_is_run(backbone: Backbone, tmp_path: Path) -> None:
    file, made = tmp_path / "evil.pt", tmp_path / "made"
    torch.save({"string_to_param": {"*": torch.ones(1, 16)}, "x": Evil(made)}, file)
    with pytest.raises(WeightsError, match="plain weights"):
        read_embedding(file, backbone, allow_pickle=True)
    assert not made.exists()
    torch.save([1, 2], file)
    with pytest.raises(WeightsError, match="plain weights"):
        read_embedding(file, backbone, allow_pickle=True)
    torch.save({"a": torch.ones(1), "b": torch.ones(1)}, file)
    with pytest.raises(WeightsError, match="holds no embeddings"):
        read_embedding(file, backbone, allow_pickle=True)


@one_family
def test_the_sampler_takes_the_models_permission(tiny_folder: Path, tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.ones(1, 16)}}, tmp_path / "mycat.pt")
    allowed = ModelSection(name=str(tiny_folder), allow_pickle=True)
    assert Sampler.load(allowed, embeddings=[tmp_path / "mycat.pt"]).embeddings == ["mycat"]
    with pytest.raises(ModelError, match="explicit permission"):
        Sampler.load(str(tiny_folder), embeddings=[tmp_path / "mycat.pt"])
