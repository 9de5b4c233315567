"""A quantized UNet against a plain one with the weights that bitsandbytes makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bitsandbytes import functional as bnb
from torch import Tensor, nn

from finetune.adapters import ControlNet, Full
from finetune.backbones import Backbone, load_backbone, load_stored
from finetune.backbones.controlnet import read_branch
from finetune.backbones.quantize import quantization_of
from finetune.config import ControlNetSection, FullSection, ModelSection
from finetune.config.model import Quantization
from finetune.errors import ConfigError
from finetune.formats.checkpoint import write_checkpoint
from finetune.formats.model_folder import write_model_folder
from finetune.kernels import count_weights, quantized_layers

INSIDE = ("down_blocks", "mid_block", "up_blocks")


def rounded(weight: Tensor, kind: str) -> Tensor:
    """The formula for int8; for nf4 what bitsandbytes makes of rows of one block (others it gets wrong)."""
    blocks = nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    if kind == "nf4":
        blocks = bnb.dequantize_4bit(*bnb.quantize_4bit(blocks, quant_type="nf4", blocksize=64))
    else:
        scale = blocks.abs().amax(1, keepdim=True)
        blocks = (blocks / scale * 127).round() * scale / 127
    return blocks.flatten()[: weight.numel()].view(weight.shape)


def by_hand(backbone: Backbone, kind: str) -> list[tuple[Tensor, Tensor]]:
    """Rounds the weights of a plain backbone; gives each before and after."""
    pairs = []
    for name, layer in backbone.unet.named_modules():
        if name.startswith(INSIDE) and isinstance(layer, nn.Linear | nn.Conv2d):
            pairs.append((layer.weight.data, rounded(layer.weight.data, kind)))
            layer.weight.data = pairs[-1][1]
    return pairs


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_it_predicts_as_a_plain_one_with_rounded_weights(
    kind: Quantization, tiny_folder: Path, backbone: Backbone
) -> None:
    made = load_backbone(ModelSection(name=str(tiny_folder), quantize=kind))
    assert count_weights(made.unet) == count_weights(backbone.unet)
    plain_print = backbone.fingerprint()
    pairs = by_hand(backbone, kind)
    assert len(list(quantized_layers(made.unet))) == len(pairs)
    noisy, steps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([9, 700])
    told = backbone.conditioning(["a cat", "a dog"])
    with torch.no_grad():
        answers = [one.predict(noisy, steps, told) for one in (made, backbone)]
    torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-4)
    assert made.fingerprint() != plain_print  # so are class pictures, and the run
    _check_note(made, pairs, kind)


def _check_note(made: Backbone, pairs: list[tuple[Tensor, Tensor]], kind: str) -> None:
    wrong = sum(float((old - new).square().sum()) for old, new in pairs)
    error = 100 * (wrong / sum(float(old.square().sum()) for old, _ in pairs)) ** 0.5
    note = made.notes[-1]
    assert note.startswith(f"{kind}: the UNet takes ") and "(fp32)" in note
    assert abs(float(note.rpartition("off by ")[2].partition(" %")[0]) - error) <= 0.06 * error


@pytest.mark.parametrize("family", ["sd1"])
def test_the_memory_told_is_what_is_held(family: str, tiny_folder: Path) -> None:
    made = load_stored(ModelSection(name="storybook", quantize="nf4"))
    made.to("cpu", torch.float32)
    held = sum(p.numel() * p.element_size() for p in made.unet.parameters()) / 1e6
    plain = sum(p.numel() for p in load_stored(ModelSection(name="storybook")).unet.parameters()) * 4 / 1e6
    assert f"the UNet takes {held:.0f} MB instead of {plain:.0f} MB (fp32)" in made.notes[-1]


@pytest.mark.parametrize("family", ["sd1"])
def test_what_needs_the_weights_themselves_is_refused(family: str, tiny_folder: Path, tmp_path: Path) -> None:
    made = load_stored(ModelSection(name=str(tiny_folder), quantize="int8"))
    attempts: list[Callable[[], object]] = [
        lambda: Full(made, FullSection()),
        lambda: ControlNet(made, ControlNetSection()),
        lambda: write_model_folder(tmp_path / "model", made, {}, torch.float32),
        lambda: write_checkpoint(tmp_path / "model.safetensors", made, {}, torch.float32),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError, match="stored rounded to int8"):
            attempt()
    assert list(tmp_path.iterdir()) == []
    assert quantization_of(made.unet) == "int8"


@pytest.mark.parametrize("family", ["sd1"])
def test_a_control_lora_changes_the_rounded_weights(
    family: str, tiny_folder: Path, backbone: Backbone, tmp_path: Path
) -> None:
    """It has updates of the UNet's weights alone, so that the branch takes the others from there."""
    from finetune.formats import write_control_lora

    made = load_backbone(ModelSection(name=str(tiny_folder), quantize="int8"))
    write_control_lora(
        tmp_path / "c.safetensors", ControlNet(backbone, ControlNetSection(rank=2)), {}, torch.float32
    )
    plain = load_backbone(ModelSection(name=str(tiny_folder)))
    by_hand(plain, "int8")
    branches = [read_branch(tmp_path / "c.safetensors", one) for one in (made, plain)]
    for own, expected in zip(*(branch.parameters() for branch in branches), strict=True):
        torch.testing.assert_close(own, expected)
