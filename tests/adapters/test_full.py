"""All weights of the UNet and, if wanted, the text encoders."""

from __future__ import annotations

import pytest
import torch

from finetune.adapters import Full
from finetune.backbones import Backbone
from finetune.config import FullSection
from finetune.errors import ConfigError
from tests.tiny import load_state


@pytest.mark.parametrize("text", [False, True])
def test_trains_everything(backbone: Backbone, text: bool) -> None:
    backbone.to("cpu", torch.bfloat16)
    adapter = Full(backbone, FullSection(text_encoder=text)).train()
    roots = backbone.module_roots()
    parts = list(roots) if text else ["unet"]
    assert list(adapter.trained()) == [f"{p}.{n}" for p in parts for n, _ in roots[p].named_parameters()]
    assert all(p.dtype == torch.float32 and p.requires_grad for p in adapter.trained().values())
    assert [group.name for group in adapter.groups()] == (["unet", "text_encoder"] if text else ["unet"])

    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    conditioning = backbone.conditioning(["a cat"])
    adapter(noisy, torch.tensor([5]), conditioning).square().mean().backward()
    assert all(p.grad is not None for n, p in adapter.trained().items() if n.startswith("unet."))
    names = [n for n, p in adapter.trained().items() if n.startswith("text_encoder") and p.grad is not None]
    assert bool(names) == text


def test_state_goes_round(backbone: Backbone) -> None:
    adapter = Full(backbone, FullSection())
    state = {name: torch.randn_like(tensor) for name, tensor in adapter.state().items()}
    load_state(adapter, state)
    own = backbone.unet.state_dict()
    assert all(torch.equal(own[name.removeprefix("unet.")], tensor) for name, tensor in state.items())


def test_dropout_of_the_model_stays_off(backbone: Backbone) -> None:
    for module in backbone.unet.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    adapter = Full(backbone, FullSection()).train()
    noisy, conditioning = torch.ones(1, 4, 8, 8), backbone.conditioning(["a cat"])
    with torch.no_grad():
        first, second = (adapter(noisy, torch.tensor([5]), conditioning) for _ in range(2))
    assert torch.equal(first, second)
    assert adapter.training and backbone.unet.training


def test_it_cannot_be_switched_off(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="switched off"):
        Full(backbone, FullSection()).switched_off()
