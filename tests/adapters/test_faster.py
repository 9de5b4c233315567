"""What `faster` computes, against the plain way, for every kind of adapter and family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from finetune.adapters import Adapter, ControlNet, LoRA
from finetune.backbones import Backbone
from finetune.config import ControlNetSection, LoRASection
from finetune.kernels import can_pack
from tests.adapters.test_lora import KINDS, fill

CONTROLNETS: dict[str, dict[str, int]] = {"controlnet": {}, "control-lora": {"rank": 2}}
CASES = ["plain", "wide", "dora", "lokr", *CONTROLNETS]


def attach(name: str, backbone: Backbone) -> Adapter:
    if name in CONTROLNETS:
        return ControlNet(backbone, ControlNetSection(**CONTROLNETS[name]))
    adapter = LoRA(backbone, LoRASection(**({"rank": 4, "alpha": 4.0} | KINDS[name])))
    fill(adapter)
    return adapter


def gradients(adapter: Adapter, dtype: torch.dtype, *, fast: bool) -> Tensor:
    """Prediction and all gradients of its mean square, as one vector; twice, as steps follow each other."""
    drawn = torch.Generator().manual_seed(0)
    noisy, control = torch.randn(2, 4, 8, 8, generator=drawn), torch.rand(2, 3, 32, 32, generator=drawn)
    backbone = adapter.backbone
    backbone.to("cpu", dtype)
    conditioning = backbone.conditioning(["a cat", "a red dog"])
    if isinstance(adapter, ControlNet):
        conditioning = replace(conditioning, control=control)
    adapter.train()
    with adapter.faster(fast, fast):
        for _ in range(2):
            adapter.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                prediction = adapter(noisy, torch.tensor([10, 700]), conditioning)
            prediction.float().square().mean().backward()
    parts = [p.grad for p in adapter.trained().values() if p.grad is not None]
    return torch.cat([prediction.detach().float().flatten(), *(g.float().flatten() for g in parts)])


@pytest.mark.parametrize("family", ["sd2"])
@pytest.mark.parametrize("name", CASES)
def test_packed_weights_give_the_same_gradients(name: str, backbone: Backbone) -> None:
    adapter = attach(name, backbone)
    plain = gradients(adapter, torch.float32, fast=False)
    torch.testing.assert_close(gradients(adapter, torch.float32, fast=True), plain, rtol=1e-3, atol=1e-5)
    assert torch.equal(gradients(adapter, torch.float32, fast=False), plain)  # nothing is left of it


@pytest.mark.parametrize("name", CASES)
def test_in_bf16_the_error_is_no_larger_than_autocasts(name: str, backbone: Backbone) -> None:
    adapter = attach(name, backbone)
    weights = {p: p.detach().bfloat16().float() for p in backbone.unet.parameters() if not p.requires_grad}
    for parameter, value in weights.items():
        parameter.data = value  # both are to compute with the same numbers
    truth = gradients(adapter, torch.float32, fast=False)
    plain = float((gradients(adapter, torch.bfloat16, fast=False) - truth).norm() / truth.norm())
    fast = float((gradients(adapter, torch.bfloat16, fast=True) - truth).norm() / truth.norm())
    assert 0 < fast <= 1.5 * plain < 0.1  # by chance up to a third more or less; on average the same


@pytest.mark.parametrize("family", ["sd1"])
@pytest.mark.parametrize(
    ("name", "fused"), [("plain", True), ("control-lora", True), ("dora", False), ("lokr", False)]
)
def test_layer_and_update_are_one_node_where_they_can_be(name: str, fused: bool, backbone: Backbone) -> None:
    adapter = attach(name, backbone)
    asked = [layer for layer in adapter.modules() if isinstance(layer, BaseTunerLayer)]
    with adapter.faster(pack=False, fuse=False):
        assert not any("forward" in vars(layer) for layer in asked)
    with adapter.faster(pack=False, fuse=True):
        linear = [layer for layer in asked if isinstance(layer.get_base_layer(), nn.Linear)]
        assert linear and all(("forward" in vars(layer)) == fused for layer in linear)
    assert not any("forward" in vars(layer) for layer in asked)


@pytest.mark.parametrize("family", ["sd1"])
def test_a_switched_off_or_rescaled_update_acts_as_before(backbone: Backbone) -> None:
    adapter = attach("plain", backbone)
    assert isinstance(adapter, LoRA)
    noisy, step = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    conditioning = backbone.conditioning(["a cat"])

    def predictions() -> list[Tensor]:
        with torch.no_grad():
            whole = adapter(noisy, step, conditioning)
            with adapter.switched_off():
                nothing = adapter(noisy, step, conditioning)
            for update in adapter.layer_updates():
                update.set_scale(0.5)
            half = adapter(noisy, step, conditioning)
            for update in adapter.layer_updates():
                update.set_scale(1.0)
        return [whole, nothing, half]

    plain = predictions()
    with adapter.faster(pack=False, fuse=True):
        fast = predictions()
    assert torch.equal(fast[1], plain[1])
    for found, expected in zip(fast, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (plain[0] - plain[1]).abs().max() > 1e-3 < (plain[0] - plain[2]).abs().max()


@pytest.mark.parametrize("family", ["sd1"])
@pytest.mark.parametrize("name", CASES)
def test_no_weight_is_packed_that_an_update_reads(name: str, backbone: Backbone) -> None:
    adapter = attach(name, backbone)
    packable = {id(layer) for layer in adapter.packable()}
    frozen = {name: layer for name, layer in backbone.unet.named_modules() if can_pack(layer)}
    left = {name.replace(".base_layer", "") for name, layer in frozen.items() if id(layer) not in packable}
    assert len(packable) > 20
    assert all("attn" in layer or "conv" in layer for layer in left)
    assert bool(left) == (name == "dora")
