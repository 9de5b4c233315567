"""AdamW in bf16: PyTorch's AdamW but for rounding, which loses nothing on average."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finetune.diffusion.random import normal
from finetune.training import adamw_bf16
from finetune.training.adamw_bf16 import AdamWBF16, rounded

MANY = 20_000
SETTINGS: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1}


def steps(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, gradients: Tensor) -> None:
    for gradient in gradients:
        parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()


def test_rounding_goes_to_a_neighbor_with_the_probability_of_its_closeness() -> None:
    generator = torch.Generator().manual_seed(0)
    # 1 + 1/128 is the next value above 1 in bf16; a quarter of the way there, and likewise below 0.
    for exact, low, high, share in ((1 + 1 / 512, 1.0, 1 + 1 / 128, 0.25), (-3.0, -3.0, -3.0, 0.0)):
        noise = torch.randint(0, 2**16, (MANY,), dtype=torch.int32, generator=generator)
        values = rounded(torch.full((MANY,), exact), noise)
        assert set(values.tolist()) <= {low, high}
        assert torch.equal(values, values.bfloat16().float())
        error = 4 * math.sqrt(share * (1 - share) / MANY)  # four standard deviations
        assert float((values == high).float().mean()) == pytest.approx(share if low != high else 1, abs=error)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fp32_weights_take_the_steps_of_pytorch_s_adamw(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adamw_bf16, "_AT_ONCE", 100)  # several pieces, the last one smaller
    start, gradients = normal(0, [0], "w", (6, 5, 4, 3))[0], normal(0, range(30), "g", (6, 5, 4, 3))
    own, reference = (nn.Parameter(start.clone(memory_format=layout)) for _ in range(2))
    steps(AdamWBF16([own], **SETTINGS), own, gradients)
    steps(torch.optim.AdamW([reference], **SETTINGS), reference, gradients)
    moved = (reference - start).abs().mean()
    assert own.stride() == reference.stride()
    assert float((own - reference).abs().mean().detach() / moved.detach()) < 0.01
    assert not torch.equal(own, reference)  # the moments are rounded


def test_second_moments_decay_though_a_step_is_less_than_bf16_can_tell() -> None:
    optimizer = AdamWBF16([parameter := nn.Parameter(torch.ones(MANY))], lr=0.0)
    steps(optimizer, parameter, torch.ones(1, MANY))
    moment = optimizer.state[parameter]["exp_avg_sq"]
    before = float(moment.float().mean())
    assert torch.equal(torch.tensor(before * 0.999).bfloat16(), torch.tensor(before).bfloat16())
    steps(optimizer, parameter, torch.zeros(300, MANY))
    after = optimizer.state[parameter]["exp_avg_sq"].float().mean()
    assert float(after) / before == pytest.approx(0.999**300, rel=0.01)


def test_bf16_weights_move_though_a_step_is_less_than_bf16_can_tell() -> None:
    optimizer = AdamWBF16(
        [parameter := nn.Parameter(torch.ones(MANY, dtype=torch.bfloat16))], lr=1e-4, weight_decay=0.0
    )
    assert torch.tensor(1 - 1e-4).bfloat16() == 1
    steps(optimizer, parameter, torch.ones(100, MANY))  # each is a step of the learning rate
    assert parameter.dtype == torch.bfloat16
    assert float(parameter.detach().float().mean()) == pytest.approx(1 - 100 * 1e-4, abs=2e-4)


def test_state_that_was_saved_and_loaded_goes_on_to_the_bit() -> None:
    gradients = normal(0, range(6), "g", (40, 30))
    for dtype in (torch.float32, torch.bfloat16):
        start = normal(0, [0], "w", (40, 30))[0].to(dtype)
        straight, first = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        whole = AdamWBF16([straight], **SETTINGS)
        steps(whole, straight, gradients)
        half = AdamWBF16([first], **SETTINGS)
        steps(half, first, gradients[:3])
        second = nn.Parameter(first.detach().clone())
        rest = AdamWBF16([second], **SETTINGS)
        rest.load_state_dict(half.state_dict())
        steps(rest, second, gradients[3:])
        assert torch.equal(second, straight)
        for name, value in whole.state[straight].items():
            assert torch.equal(rest.state[second][name], value)
            assert rest.state[second][name].dtype == value.dtype
