"""PEFT's layers put into a module and taken out again."""

from __future__ import annotations

import pytest
import torch

from finetune.adapters import peft_inside
from finetune.adapters.algorithms import update_class
from finetune.adapters.inject import LayerSize, eject, inject
from finetune.config.algorithms import ALGORITHMS
from tests.adapters.test_peft_inside import Small, picture


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@torch.no_grad()
def test_one_of_two_adapters_is_ejected(algorithm: str) -> None:
    module, base = Small(), Small()
    drawn = torch.Generator().manual_seed(0)
    alone = []
    for name in ("one", "two"):
        updates = inject(module, {"linear": LayerSize(1, 1.0)}, name, update_class(algorithm))
        for parameter in updates["linear"].parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=drawn))
        alone.append(module(picture()))
    assert not torch.equal(alone[0], alone[1])
    eject(module, "two")
    assert peft_inside.adapters_on(module) == ["one"]
    assert torch.equal(module(picture()), alone[0])
    eject(module)
    assert peft_inside.adapters_on(module) == []
    assert type(module.linear) is torch.nn.Linear
    assert torch.equal(module(picture()), base(picture()))
