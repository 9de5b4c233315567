"""A VAE whose large convolutions multiply in bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.backbones import Backbone, load_stored
from finetune.backbones.memory import computing_in
from finetune.backbones.precision import vae_dtype
from finetune.config import ModelSection
from finetune.data.preprocess import as_pixels, cropped, place
from finetune.sampling import Sampler

_CPU = torch.device("cpu")


@pytest.fixture
def storybook() -> Backbone:
    return load_stored(ModelSection(name="storybook"))


@pytest.fixture
def pixels() -> Tensor:
    """Four pictures, `[4, 3, 64, 64]` in [-1, 1]."""
    files = sorted(Path(__file__).parents[2].glob("datasets/mycat/*.png"))[:4]
    rows = []
    for file in files:
        image = Image.open(file).convert("RGB")
        rows.append(as_pixels(cropped(image, place((image.height, image.width), (64, 64)))))
    return torch.stack(rows)


def error(found: Tensor, expected: Tensor) -> float:
    """Root mean square, as a share of the deviation of what is expected."""
    return float((found - expected).square().mean().sqrt() / expected.std())


def test_only_large_convolutions_are_rounded(storybook: Backbone, pixels: Tensor) -> None:
    """Beside a VAE with such layers written out, and a VAE that is rounded everywhere."""
    vae, scale = storybook.vae, storybook.vae.config.scaling_factor
    with torch.no_grad(), computing_in(torch.float32, [vae]):
        exact = vae.encode(pixels).latent_dist.mean * scale
        painted = vae.decode(exact / scale).sample.clamp(-1, 1)
    storybook.vae_dtype = torch.bfloat16
    mean, std = storybook.encode_pixels(pixels)
    picture = storybook.decode(exact)
    assert mean.dtype == std.dtype == picture.dtype == torch.float32
    assert 0 < error(mean, exact) < 0.01
    assert 0 < error(picture, painted) < 0.01
    assert (picture - painted).abs().max() < 4 / 127.5  # levels of 8 bits

    def rounded(layer: nn.Conv2d, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        x, weight, bias = (t.bfloat16().float() for t in (inputs[0], layer.weight, layer.bias))
        return F.conv2d(x, weight, bias, layer.stride, layer.padding).bfloat16().float()

    hooks = []
    for name, layer in vae.named_modules():
        ends = ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out")
        if isinstance(layer, nn.Conv2d) and name not in (*ends, "quant_conv", "post_quant_conv"):
            hooks.append(layer.register_forward_hook(rounded))
    with torch.no_grad(), computing_in(torch.float32, [vae]):
        expected = vae.encode(pixels).latent_dist.mean * scale
    for hook in hooks:
        hook.remove()
    # Sums in another order round to other bits, but no farther.
    assert error(mean, exact) == pytest.approx(error(expected, exact), rel=0.2)
    with torch.no_grad(), computing_in(torch.bfloat16, [vae]):
        half = vae.encode(pixels.bfloat16()).latent_dist.mean.float() * scale
    assert error(half, exact) > 3 * error(mean, exact)


def test_the_vae_is_untouched_afterward(storybook: Backbone, pixels: Tensor) -> None:
    def state() -> list[Any]:
        return [(t.data_ptr(), t.dtype, t.clone()) for t in storybook.vae.state_dict().values()]

    before, exact = state(), storybook.encode_pixels(pixels)
    storybook.vae_dtype = torch.bfloat16
    first, again = storybook.encode_pixels(pixels), storybook.encode_pixels(pixels)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    for (at, dtype, value), (at_now, dtype_now, value_now) in zip(before, state(), strict=True):
        assert (at, dtype) == (at_now, dtype_now) and torch.equal(value, value_now)
    assert not any("forward" in vars(layer) for layer in storybook.vae.modules())
    storybook.vae_dtype = torch.float32
    assert torch.equal(storybook.encode_pixels(pixels)[0], exact[0])


@pytest.mark.parametrize(
    ("setting", "unet", "native", "expected"),
    [
        ("auto", torch.bfloat16, True, torch.bfloat16),
        ("auto", torch.bfloat16, False, torch.float32),
        ("auto", torch.float16, True, torch.float32),  # SDXL's VAE overflows in fp16
        ("auto", torch.float32, True, torch.float32),
        ("fp32", torch.bfloat16, True, torch.float32),
        ("bf16", torch.float32, False, torch.bfloat16),
    ],
)
def test_auto_is_bf16_where_unet_and_machine_compute_in_it(
    setting: str, unet: torch.dtype, native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native)
    assert vae_dtype(setting, unet, _CPU) == vae_dtype(setting, unet, torch.device("cuda")) == expected


def test_a_sampler_decodes_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    sections = [ModelSection(name="storybook", vae_precision=name) for name in ("auto", "fp32")]
    samplers = [Sampler.load(section, precision="bf16", device="cpu") for section in sections]
    assert [sampler.backbone.vae_dtype for sampler in samplers] == [torch.bfloat16, torch.float32]
    assert Sampler.load("storybook", device="cpu").backbone.vae_dtype == torch.float32
