"""A loaded backbone against diffusers' own pipelines."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from finetune.backbones import Backbone
from finetune.diffusion.batch import Conditioning
from tests.tiny import Family

CAPTIONS = ["a red cat", "Ünïcödé 漢字 🐈 " * 30, ""]


@pytest.fixture
def plain(tiny_folder: Path) -> DiffusionPipeline:
    """The same model, loaded by diffusers alone."""
    return DiffusionPipeline.from_pretrained(tiny_folder)


def pipeline_text(plain: DiffusionPipeline) -> tuple[torch.Tensor, torch.Tensor | None]:
    told = plain.encode_prompt(
        CAPTIONS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return told[0], told[2] if len(told) == 4 else None


def test_tells_what_it_is(backbone: Backbone, family: Family) -> None:
    assert backbone.family == family
    assert (backbone.native_size, backbone.latent_factor, backbone.latent_channels) == (32, 4, 4)
    assert backbone.prediction_type == ("v_prediction" if family == "sd2" else "epsilon")
    assert backbone.token_length == 77
    assert backbone.notes == ()


def test_everything_is_frozen_fp32_and_in_evaluation_mode(backbone: Backbone) -> None:
    for module in (backbone.unet, backbone.vae, *backbone.text_encoders):
        assert not module.training
        assert {(p.requires_grad, p.dtype) for p in module.parameters()} == {(False, torch.float32)}


def test_text_is_what_the_pipeline_makes_of_it(backbone: Backbone, plain: DiffusionPipeline) -> None:
    hidden, pooled = backbone.encode_text(backbone.tokenize(CAPTIONS))
    expected_hidden, expected_pooled = pipeline_text(plain)
    assert torch.equal(hidden, expected_hidden)
    if expected_pooled is None:
        assert pooled is None
    else:
        assert pooled is not None
        assert torch.equal(pooled, expected_pooled)


def test_a_long_caption_is_encoded_piece_by_piece(backbone: Backbone, family: Family) -> None:
    words = " ".join("red cat" if i % 3 else "dog" for i in range(60))  # 100 tokens
    backbone.pieces = 2
    tokens = backbone.tokenize([words, "a cat"])
    hidden, pooled = backbone.encode_text(tokens)
    assert tokens.shape == (2, len(backbone.tokenizers), 2 * 77)
    assert hidden.shape[:2] == (2, 2 * 77)
    first = backbone.tokenizers[0]
    ids = first(words, add_special_tokens=False).input_ids
    for piece, own in enumerate((ids[:75], ids[75:150])):
        alone = tokens[:1, :, 77 * piece : 77 * (piece + 1)]
        assert alone[0, 0, : len(own) + 2].tolist() == [first.bos_token_id, *own, first.eos_token_id]
        expected, pool = backbone.encode_text(alone)
        torch.testing.assert_close(hidden[:1, 77 * piece : 77 * (piece + 1)], expected)
        if piece == 0 and pooled is not None:
            torch.testing.assert_close(pooled[:1], pool)
    assert backbone.truncated(words) is None
    assert backbone.truncated(" ".join(["cat"] * 151)) == "cat"
    backbone.pieces = 1
    assert torch.equal(backbone.tokenize([words])[0, 0, :76], tokens[0, 0, :76])
    assert backbone.truncated(words) is not None


def test_tokens_are_padded_as_each_tokenizer_says(backbone: Backbone, family: Family) -> None:
    tokens = backbone.tokenize(["a cat"])
    assert tokens.shape == (1, 2 if family == "sdxl" else 1, 77)
    assert tokens.dtype == torch.int64
    end = backbone.tokenizers[0].eos_token_id
    pads = {"sd1": [end], "sd2": [0], "sdxl": [end, 0]}[family]
    assert tokens[0, :, -1].tolist() == pads


def test_text_is_differentiable_when_the_encoders_are_trained(backbone: Backbone) -> None:
    for encoder in backbone.text_encoders:
        encoder.requires_grad_(True)
    hidden, pooled = backbone.encode_text(backbone.tokenize(["a cat"]))
    (hidden.sum() + (pooled.sum() if pooled is not None else 0)).backward()
    for encoder in backbone.text_encoders:
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_what_does_not_fit_is_told_in_whole_words(backbone: Backbone) -> None:
    assert backbone.truncated("a red cat") is None
    assert backbone.truncated("cat " * 75) is None  # 75 tokens, begin and end
    assert backbone.truncated("cat " * 75 + "Dog") == "Dog"
    assert backbone.truncated("cat " * 74 + "Zebra on snow") == "Zebra on snow"  # "z" alone would have fitted


def test_unet_gets_what_the_pipeline_gives_it(
    backbone: Backbone, plain: DiffusionPipeline, family: Family
) -> None:
    latents, timesteps = torch.randn(3, 4, 8, 8), torch.tensor([1, 500, 999])
    hidden, pooled = pipeline_text(plain)
    extra = {}
    if family == "sdxl":
        sizes = plain._get_add_time_ids((40, 50), (1, 2), (32, 32), hidden.dtype, pooled.shape[-1])
        extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes.repeat(3, 1)}}
    expected = plain.unet(latents, timesteps, hidden, **extra).sample
    conditioning = backbone.conditioning(CAPTIONS, [((40, 50), (1, 2), (32, 32))] * 3)
    # Not to the bit: without gradients torch takes other kernels for linear layers.
    torch.testing.assert_close(backbone.predict(latents, timesteps, conditioning), expected)
    cached = Conditioning(hidden=hidden, pooled=pooled, time_ids=conditioning.time_ids)
    torch.testing.assert_close(backbone.predict(latents, timesteps, cached), expected)


def test_sizes_are_native_unless_told(backbone: Backbone, family: Family) -> None:
    ids = backbone.conditioning(["a", "b"]).time_ids
    if family != "sdxl":
        assert ids is None
    else:
        assert ids is not None
        assert ids.tolist() == [[32, 32, 0, 0, 32, 32]] * 2


def test_latents_are_scaled_as_the_pipeline_expects(backbone: Backbone, plain: DiffusionPipeline) -> None:
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = backbone.encode_pixels(pixels)
    posterior = plain.vae.encode(pixels).latent_dist
    factor = {"sdxl": 0.13025}.get(backbone.family, 0.18215)
    torch.testing.assert_close(mean, posterior.mean * factor)
    torch.testing.assert_close(std, posterior.std * factor)
    decoded = plain.vae.decode(posterior.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(backbone.decode(mean), decoded, rtol=1e-4, atol=1e-5)


def test_shift_and_channel_statistics_are_undone_by_decode(backbone: Backbone) -> None:
    pixels = torch.rand(1, 3, 32, 32)
    plain_mean, _ = backbone.encode_pixels(pixels)
    expected = backbone.decode(plain_mean)
    backbone.vae.register_to_config(shift_factor=0.5)
    shifted, _ = backbone.encode_pixels(pixels)
    scale = backbone.vae.config.scaling_factor
    torch.testing.assert_close(shifted, plain_mean - 0.5 * scale)
    torch.testing.assert_close(backbone.decode(shifted), expected)
    backbone.vae.register_to_config(
        shift_factor=None, latents_mean=[0.1, 0, 0, 0], latents_std=[2.0, 1, 1, 1]
    )
    scaled, _ = backbone.encode_pixels(pixels)
    torch.testing.assert_close(scaled[:, 0], (plain_mean[:, 0] / scale - 0.1) / 2 * scale)
    torch.testing.assert_close(backbone.decode(scaled), expected)


def test_pipeline_shares_the_modules_and_says_nothing(
    backbone: Backbone,
    plain: DiffusionPipeline,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # diffusers' Euler
        pipe = backbone.pipeline()
        assert pipe.unet is backbone.unet
        assert pipe.vae is backbone.vae
        settings = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np"}
        picture = pipe("a cat", generator=torch.Generator().manual_seed(1), **settings).images
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    plain.set_progress_bar_config(disable=True)
    expected = plain("a cat", generator=torch.Generator().manual_seed(1), **settings).images
    assert abs(picture - expected).max() < 1 / 255


def test_half_precision_spares_the_vae_and_what_is_trained(backbone: Backbone) -> None:
    trained = backbone.unet.conv_in.weight.requires_grad_(True)
    backbone.to("cpu", torch.bfloat16)
    assert trained.dtype == torch.float32
    assert backbone.unet.conv_out.weight.dtype == torch.bfloat16
    assert backbone.dtype == torch.bfloat16
    assert {p.dtype for p in backbone.vae.parameters()} == {torch.float32}
    assert backbone.encode_text(backbone.tokenize(["a cat"]))[0].dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        mean, _ = backbone.encode_pixels(torch.rand(1, 3, 32, 32, dtype=torch.bfloat16))
        prediction = backbone.predict(mean, torch.tensor([5]), backbone.conditioning(["a cat"]))
    assert mean.dtype == torch.float32
    assert prediction.isfinite().all()


def test_freed_encoders_are_the_same(backbone: Backbone) -> None:
    before = backbone.fingerprint_text(), backbone.fingerprint_vae()
    backbone.free_encoders()
    assert (backbone.fingerprint_text(), backbone.fingerprint_vae()) == before


def test_conditioning_without_text_is_a_fault_of_the_caller(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="hidden or tokens"):
        backbone.predict(torch.zeros(1, 4, 8, 8), torch.tensor([0]), Conditioning())
