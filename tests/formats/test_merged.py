"""LoRAs merged into a model as it is written: PEFT's sums in the file, the model as before."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.backbones import Backbone
from finetune.backbones.planned import Changes, planned_state
from finetune.errors import WeightsError
from finetune.formats import apply_lora, read_lora, write_kohya
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


def state_with(backbone: Backbone, changes: Changes) -> dict[str, Tensor]:
    """All weights as they would be written."""
    return {
        f"{part}.{name}": weight.made()
        for part, module in backbone.module_roots().items()
        for name, weight in planned_state(part, module, changes).items()
    }


@one_family
def test_what_would_be_written_and_afterwards(backbone: Backbone, tmp_path: Path) -> None:
    a = written(backbone, tmp_path / "a.safetensors")
    b = written(backbone, tmp_path / "b.safetensors", rank=2, text_encoder=True)
    before, changes = state(backbone), (by_peft(backbone, a, 0.5), by_peft(backbone, b, -2))
    with merged([(a, 0.5), (b, -2.0)], backbone) as made:
        inside = state_with(backbone, made.changes)
    assert inside.keys() == before.keys()
    for name, weight in before.items():
        expected = weight + sum(change.get(name, torch.zeros(())) for change in changes)
        torch.testing.assert_close(inside[name], expected, rtol=1e-5, atol=1e-6)
    assert all(map(torch.equal, state(backbone).values(), before.values()))
    about = made.about
    assert [(one["file"], one["weight"]) for one in about] == [
        ("a.safetensors", 0.5),
        ("b.safetensors", -2.0),
    ]
    assert about[0]["sha256"] == hashlib.sha256(a.read_bytes()).hexdigest()
    assert about[1]["metadata"]["ss_seed"] == "3"


@one_family
@pytest.mark.parametrize(
    "settings",
    [
        {"targets": "all", "text_encoder": True, "conv_rank": 2},
        {"dora": True, "conv_rank": 2},
        {"algorithm": "loha", "conv_rank": 2},
        {"algorithm": "lokr", "rank": 2, "factor": 2, "conv_rank": 2},
    ],
    ids=["lora", "dora", "loha", "lokr"],
)
def test_one_by_one_gives_the_bits_of_peft_in_the_whole_model(
    settings: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    a = written(backbone, tmp_path / "a.safetensors", **settings)
    loras = [(a, 0.7)] if "dora" in settings else [(a, 0.7), (written(backbone, tmp_path / "b"), -1.5)]
    with merged(loras, backbone) as made:
        found = state_with(backbone, made.changes)
    before = state(backbone)
    for file, weight in loras:
        apply_lora(backbone, read_lora(file, backbone), weight).merge()
    expected = state(backbone)
    assert sum(not torch.equal(tensor, before[name]) for name, tensor in expected.items()) > 20
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@one_family
def test_what_fails_leaves_the_model_as_it_was(backbone: Backbone, tmp_path: Path) -> None:
    a = written(backbone, tmp_path / "a.safetensors")
    dora = written(backbone, tmp_path / "dora.safetensors", dora=True)
    before = state(backbone)
    for loras, words in (
        ([(a, 1.0), (dora, 1.0)], "This is a DoRA"),
        ([(a, 1.0), (tmp_path / "none.safetensors", 1.0)], "no such LoRA"),
    ):
        with pytest.raises(WeightsError, match=words), merged(loras, backbone):
            raise AssertionError
        assert all(map(torch.equal, state(backbone).values(), before.values()))
    with (
        merged([(a, 1.0), (a, math.inf)], backbone) as made,
        pytest.raises(WeightsError, match="not finite") as caught,
    ):
        state_with(backbone, made.changes)
    assert caught.value.where == str(a)
    with merged([(dora, 1.0)], backbone) as made:  # alone it can be
        assert not all(map(torch.equal, state_with(backbone, made.changes).values(), before.values()))
    assert all(map(torch.equal, state(backbone).values(), before.values()))
