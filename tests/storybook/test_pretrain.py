"""The making of the bundled model, in miniature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from finetune.errors import ConfigError, ModelError
from storybook.architecture import make_tokenizer
from storybook.autoencoder import encode_means, make_autoencoder, whiten
from storybook.pictures import draw_for_autoencoder, draw_world, pixels_of
from storybook.pretrain import Stage, train_unet, train_vae


def test_whitening_changes_the_latents_and_not_the_pictures() -> None:
    torch.manual_seed(0)
    vae = make_autoencoder().eval()
    pictures = draw_for_autoencoder(40, seed=1)
    pixels = pixels_of(pictures[:4])
    with torch.no_grad():
        before = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        whiten(vae, pictures)
        after = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    assert torch.allclose(before, after, atol=1e-4)
    columns = encode_means(vae, pictures)[0].transpose(0, 1).flatten(1)
    assert columns.mean(1).abs().max() < 1e-3
    assert (torch.cov(columns) - torch.eye(len(columns))).abs().max() < 1e-2


def test_the_tokenizer_knows_the_world_and_takes_any_text() -> None:
    _, captions = draw_world(300, seed=0, captions=4)
    tokenizer = make_tokenizer(text for texts in captions for text in texts)
    assert tokenizer.tokenize("a red cat on snow") == ["a</w>", "red</w>", "cat</w>", "on</w>", "snow</w>"]
    for text in ("mycat", "Zürich", "猫", "🐈", "sks!"):
        tokens = tokenizer.tokenize(text)
        assert tokens
        assert tokenizer.unk_token not in tokens or tokenizer.unk_token == tokenizer.eos_token
        assert tokenizer.eos_token not in tokens
    assert all(len(tokenizer(text).input_ids) <= 32 for texts in captions for text in texts)


def test_pictures_do_not_depend_on_how_many_are_drawn() -> None:
    few, captions = draw_world(3, seed=5, captions=2)
    more, others = draw_world(5, seed=5, captions=2)
    assert torch.equal(few, more[:3])
    assert captions == others[:3]


def test_the_stages_make_a_model_that_diffusers_loads(tmp_path: Path) -> None:
    stage = Stage(pictures=32, steps=2, batch_size=4, lr=1e-3)
    vae = train_vae(tmp_path / "vae", stage)
    model = train_unet(tmp_path / "unet", vae, stage)
    pipe = StableDiffusionPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a red cat on snow", num_inference_steps=2).images[0].size == (64, 64)
    stored = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16}
    assert str(tmp_path) not in "".join(f.read_text() for f in model.rglob("*.json"))
    size = sum(f.stat().st_size for f in model.rglob("*.safetensors"))
    assert size < 16e6
    # Finished stages are not trained again, and other settings do not overwrite them.
    assert train_vae(tmp_path / "vae", stage) == vae
    with pytest.raises(ConfigError, match="steps"):
        train_vae(tmp_path / "vae", replace(stage, steps=3))
    # A made model can be trained further, but not around another autoencoder.
    further = train_unet(tmp_path / "further", vae, replace(stage, lr=1e-9), start=model)
    weights = load_file(further / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in stored.items())
    other = train_vae(tmp_path / "other", stage, seed=1)
    with pytest.raises(ModelError, match="another autoencoder"):
        train_unet(tmp_path / "wrong", other, stage, start=model)
