"""The branch beside the UNet: what it starts as, what it learns, and what is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from torch import Tensor

from finetune.adapters import ControlNet
from finetune.backbones import Backbone
from finetune.config import ControlNetSection
from finetune.diffusion.batch import Conditioning
from finetune.formats import write_controlnet
from tests.tiny import load_state

NEW, LOW_RANK = ControlNetSection(), ControlNetSection(rank=2)


def inputs(backbone: Backbone, seed: int = 0) -> tuple[Tensor, Tensor, Conditioning]:
    """Two rows of noisy latents with captions and control pictures."""
    draws = torch.Generator().manual_seed(seed)
    side = backbone.latent_factor * 8
    noisy = torch.randn(2, backbone.latent_channels, 8, 8, generator=draws)
    conditioning = backbone.conditioning(["a cat", "a red dog"])
    hidden, pooled = backbone.encode_text(conditioning.tokens)
    control = torch.rand(2, 3, side, side, generator=draws)
    return (
        noisy,
        torch.tensor([5, 700]),
        replace(conditioning, tokens=None, hidden=hidden.detach(), pooled=pooled, control=control),
    )


def stirred(adapter: ControlNet) -> ControlNet:
    """The adapter with other weights, so that its branch says something."""
    draws = torch.Generator().manual_seed(7)
    load_state(
        adapter,
        {name: t + 0.1 * torch.randn(t.shape, generator=draws) for name, t in adapter.state().items()},
    )
    return adapter


def written(adapter: ControlNet, folder: Path) -> Any:
    """The branch as plain diffusers reads what is written."""
    folder.mkdir(exist_ok=True)
    write_controlnet(folder, adapter, {"made": "by a test"})
    return ControlNetModel.from_pretrained(folder)


@pytest.mark.parametrize("section", [NEW, LOW_RANK], ids=["full", "low rank"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_starts_as_nothing(backbone: Backbone, section: ControlNetSection, dtype: torch.dtype) -> None:
    before, random_state = inputs(backbone), torch.get_rng_state()
    adapter = ControlNet(backbone, section).train()
    assert torch.equal(torch.get_rng_state(), random_state)
    backbone.to("cpu", dtype)

    @torch.no_grad()
    def predicted(predict: Callable[..., Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            return predict(*before)

    alone = predicted(backbone.predict)
    assert torch.equal(predicted(adapter), alone)
    stirred(adapter)
    assert not torch.equal(predicted(adapter), alone)
    assert torch.equal(predicted(adapter.predict_untrained), alone)


@pytest.mark.parametrize("section", [NEW, LOW_RANK], ids=["full", "low rank"])
def test_training_leaves_the_model_as_it_was(backbone: Backbone, section: ControlNetSection) -> None:
    before = {name: p.clone() for name, p in backbone.unet.state_dict().items()}
    adapter = ControlNet(backbone, section).train()
    optimizer = torch.optim.Adam(adapter.trained().values(), lr=1e-2)
    noisy, timesteps, conditioning = inputs(backbone)
    losses = []
    for _ in range(4):
        loss = (adapter(noisy, timesteps, conditioning) - noisy).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = backbone.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad for p in backbone.unet.parameters())


def test_what_is_trained(backbone: Backbone) -> None:
    full, low = ControlNet(backbone, NEW), ControlNet(backbone, LOW_RANK)
    assert list(full.trained()) == [f"controlnet.{name}" for name, _ in full.branch.named_parameters()]
    assert [group.name for group in full.groups()] == ["controlnet"]
    assert all(p.dtype == torch.float32 and p.requires_grad for p in full.trained().values())
    kinds = {name.rsplit(".", 2)[-2] if ".lora_" in name else name.split(".")[1] for name in low.trained()}
    assert kinds == {
        "lora_A",
        "lora_B",
        "controlnet_cond_embedding",
        "controlnet_down_blocks",
        "controlnet_mid_block",
    }
    # The copied weights take no memory of their own.
    assert low.branch.down_blocks[0].resnets[0].norm1.weight is backbone.unet.down_blocks[0].resnets[0].norm1.weight  # fmt: skip  # noqa: E501


def test_the_seed_alone_decides(backbone: Backbone) -> None:
    for section in (NEW, LOW_RANK):
        one, same, other = (ControlNet(backbone, section, seed).state() for seed in (1, 1, 2))
        assert all(torch.equal(one[name], same[name]) for name in one)
        differing = {name for name in one if not torch.equal(one[name], other[name])}
        assert any("controlnet_cond_embedding.conv_in" in name for name in differing)
        assert all("cond_embedding" in name or "lora_A" in name for name in differing)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_plain_diffusers(
    backbone: Backbone, tmp_path: Path, checkpointing: bool
) -> None:
    adapter = stirred(ControlNet(backbone, NEW)).train()
    if checkpointing:
        adapter.enable_gradient_checkpointing()
    noisy, timesteps, conditioning = inputs(backbone)
    target = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(3))
    adapter_loss = (adapter(noisy, timesteps, conditioning) - target).square().mean()
    adapter_loss.backward()

    plain = written(adapter, tmp_path / "controlnet").train()
    told: dict[str, Any] = {"encoder_hidden_states": conditioning.hidden}
    if conditioning.time_ids is not None:
        told["added_cond_kwargs"] = {"text_embeds": conditioning.pooled, "time_ids": conditioning.time_ids}
    down, middle = plain(noisy, timesteps, controlnet_cond=conditioning.control, return_dict=False, **told)
    prediction = backbone.unet(
        noisy,
        timesteps,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
        **told,
    ).sample
    loss = torch.nn.functional.mse_loss(prediction, target)
    loss.backward()
    assert torch.allclose(loss, adapter_loss, rtol=1e-5)
    own = adapter.trained()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(own[f"controlnet.{name}"].grad, parameter.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("section", [NEW, LOW_RANK], ids=["full", "low rank"])
def test_what_is_written_does_what_was_learned(
    backbone: Backbone, tmp_path: Path, section: ControlNetSection
) -> None:
    adapter = stirred(ControlNet(backbone, section)).eval()
    given = inputs(backbone)
    with torch.no_grad():
        learned = adapter(*given)
        plain = written(adapter, tmp_path / "controlnet")
        torch.testing.assert_close(backbone.predict(*given, plain), learned, rtol=1e-5, atol=1e-6)
    # And it can be gone on with.
    again = ControlNet(backbone, ControlNetSection(start=tmp_path))
    state = again.state()
    assert all(torch.equal(state[f"controlnet.{n}"], t) for n, t in adapter.weights().items())


def test_state_goes_round(backbone: Backbone) -> None:
    for section in (NEW, LOW_RANK):
        adapter = stirred(ControlNet(backbone, section))
        other = ControlNet(backbone, section, seed=3)
        load_state(other, adapter.state())
        given = other.weights()
        assert all(torch.equal(t, given[name]) for name, t in adapter.weights().items())


def test_a_control_picture_is_needed(backbone: Backbone) -> None:
    noisy, timesteps, conditioning = inputs(backbone)
    with pytest.raises(ValueError, match="control pictures"):
        ControlNet(backbone, NEW)(noisy, timesteps, replace(conditioning, control=None))
