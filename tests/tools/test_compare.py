"""How LoRAs and models differ, against the vectors of all their entries."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.backbones import Backbone
from finetune.backbones.load import is_model
from finetune.errors import ModelError, WeightsError
from finetune.formats import write_checkpoint, write_diffusers, write_kohya
from finetune.tools import compare_loras, compare_models
from tests.formats.conftest import trained_lora
from tests.tools.changes import by_diffusers

one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


def written(
    backbone: Backbone, file: Path, writer: Any = write_kohya, times: float = 1.0, **settings: Any
) -> Path:
    lora = trained_lora(backbone, **settings)
    for parameter in lora.trained().values():
        parameter.data *= times
    writer(file, lora, {"ss_seed": str(times), "ss_v2": "False"})
    lora.detach()
    return file


def assert_compares(found: dict[str, Any], first: list[Tensor], second: list[Tensor]) -> None:
    """The numbers of a block are those of the two long vectors."""
    one, other = (torch.cat([t.flatten().double() for t in tensors]) for tensors in (first, second))
    expected = {
        "first": one.norm().item(),
        "second": other.norm().item(),
        "difference": ((other - one).norm() / one.norm()).item(),
        "cosine": torch.nn.functional.cosine_similarity(one, other, dim=0).item(),
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)


@one_family
def test_loras_by_their_changes(backbone: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    """Of different layouts, ranks and layers."""
    a = written(backbone, tmp_path / "a.safetensors")
    b = written(backbone, tmp_path / "b.safetensors", write_diffusers, 1.5, rank=3, text_encoder=True)
    found = compare_loras(a, b, backbone).plain()
    first, second = by_diffusers(tiny_folder, a), by_diffusers(tiny_folder, b)
    assert found["all"]["first"] > 0 and not found["equal"]
    blocks = {block["block"]: block for block in found["blocks"]}
    for block, start in (("unet mid_block", "unet.mid_block"), ("unet up_blocks.1", "unet.up_blocks.1")):
        names = [name for name in first if name.startswith(start)]
        assert_compares(blocks[block], [first[n] for n in names], [second[n] for n in names])
        assert blocks[block]["weights"] == blocks[block]["differ"] == len(names)
    text = blocks["text_encoder"]
    assert (text["first"], text["difference"], text["cosine"]) == (0, None, None) and text["second"] > 0
    alone = [name for name in second if name not in first]
    assert len(found["only_second"]) == len(alone) == text["weights"] and found["only_first"] == []
    names = [*first, *alone]
    zero = {name: torch.zeros_like(second[name]) for name in alone}
    assert_compares(found["all"], [(first | zero)[n] for n in names], [second[n] for n in names])
    assert found["metadata"]["ss_seed"] == ["1.0", "1.5"] and "ss_v2" not in found["metadata"]
    assert found["metadata"]["ss_network_dim"] == ["4", None]


@one_family
def test_one_lora_in_two_layouts_is_the_same(backbone: Backbone, tmp_path: Path) -> None:
    a, b = (
        written(backbone, tmp_path / f"{w.__name__}.safetensors", w) for w in (write_kohya, write_diffusers)
    )
    found = compare_loras(a, b, backbone).plain()
    assert found["equal"] == (found["all"]["difference"] == 0)
    assert found["all"]["difference"] < 1e-7 and found["all"]["cosine"] == pytest.approx(1)
    assert compare_loras(a, a, backbone).plain()["equal"]
    with pytest.raises(WeightsError, match="This is a DoRA"):
        compare_loras(a, written(backbone, tmp_path / "d.safetensors", dora=True), backbone)


@one_family
def test_models_weight_by_weight(backbone: Backbone, loaded: dict[str, Backbone]) -> None:
    other = copy.deepcopy(backbone)
    assert compare_models(backbone, other).plain()["equal"]
    with torch.no_grad():
        other.unet.mid_block.resnets[0].conv1.weight *= 1.1
        other.unet.mid_block.resnets[0].conv1.bias += 0.2
        other.vae.quant_conv.bias -= 0.5
    found = compare_models(backbone, other).plain()
    blocks = {block["block"]: block for block in found["blocks"]}
    assert {name: block["differ"] for name, block in blocks.items() if block["differ"]} == {
        "unet mid_block": 2,
        "vae": 1,
    }
    parts = [(b.unet.mid_block, b.vae) for b in (backbone, other)]
    for number, block in enumerate(("unet mid_block", "vae")):
        first, second = (list(part[number].state_dict().values()) for part in parts)
        assert_compares(blocks[block], first, second)
    modules = [*backbone.module_roots().values(), backbone.vae]
    assert sum(block["weights"] for block in found["blocks"]) == sum(len(m.state_dict()) for m in modules)
    with pytest.raises(ModelError, match="is SD 2"):
        compare_models(backbone, loaded["sd2"])


@one_family
def test_what_is_a_model(backbone: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model.safetensors", backbone, {}, torch.float16)
    written(backbone, tmp_path / "lora.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(tiny_folder)
    for name in (tiny_folder, tmp_path / "run", tmp_path / "model.safetensors", "storybook", "sdxl"):
        assert is_model(str(name)), name
    for name in (tmp_path, tmp_path / "lora.safetensors", tmp_path / "text.safetensors", "none"):
        assert not is_model(str(name)), name
