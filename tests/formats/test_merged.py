"""LoRAs merged into a model for a while: PEFT's sums inside, the old bits afterwards."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.backbones import Backbone
from finetune.errors import WeightsError
from finetune.formats import write_kohya
from finetune.formats.merged import merged
from tests.formats.conftest import trained_lora
from tests.tools.changes import by_peft

one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


def state(backbone: Backbone) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": tensor.clone()
        for part, module in backbone.module_roots().items()
        for name, tensor in module.state_dict().items()
    }


def written(backbone: Backbone, file: Path, **settings: Any) -> Path:
    lora = trained_lora(backbone, **settings)
    write_kohya(file, lora, {"ss_seed": "3"})
    lora.detach()
    return file


@one_family
def test_inside_and_afterwards(backbone: Backbone, tmp_path: Path) -> None:
    a = written(backbone, tmp_path / "a.safetensors")
    b = written(backbone, tmp_path / "b.safetensors", rank=2, text_encoder=True)
    before, changes = state(backbone), (by_peft(backbone, a, 0.5), by_peft(backbone, b, -2))
    with merged([(a, 0.5), (b, -2.0)], backbone) as about:
        inside = state(backbone)
    for name, weight in before.items():
        expected = weight + sum(change.get(name, torch.zeros(())) for change in changes)
        torch.testing.assert_close(inside[name], expected, rtol=1e-5, atol=1e-6)
    assert all(map(torch.equal, state(backbone).values(), before.values()))
    assert [(one["file"], one["weight"]) for one in about] == [
        ("a.safetensors", 0.5),
        ("b.safetensors", -2.0),
    ]
    assert about[0]["sha256"] == hashlib.sha256(a.read_bytes()).hexdigest()
    assert about[1]["metadata"]["ss_seed"] == "3"


@one_family
def test_what_fails_leaves_the_model_as_it_was(backbone: Backbone, tmp_path: Path) -> None:
    a = written(backbone, tmp_path / "a.safetensors")
    dora = written(backbone, tmp_path / "dora.safetensors", dora=True)
    before = state(backbone)
    for loras, words in (
        ([(a, 1.0), (a, math.inf)], "not finite"),
        ([(a, 1.0), (dora, 1.0)], "This is a DoRA"),
        ([(a, 1.0), (tmp_path / "none.safetensors", 1.0)], "no such LoRA"),
    ):
        with pytest.raises(WeightsError, match=words), merged(loras, backbone):
            raise AssertionError
        assert all(map(torch.equal, state(backbone).values(), before.values()))
    with merged([(dora, 1.0)], backbone):  # alone it can be
        assert not all(map(torch.equal, state(backbone).values(), before.values()))
