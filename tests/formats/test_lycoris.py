"""LoHa and LoKr files: ours by their formulas, in plain diffusers, and other people's."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.adapters import Hadamard, Kronecker
from finetune.backbones import Backbone
from finetune.backbones.names import live_text_name
from finetune.errors import WeightsError
from finetune.formats import apply_lora, diffusers, read_lora, write_diffusers, write_kohya
from tests.formats.conftest import picture, trained_lora

Fresh = Callable[[], Backbone]
KINDS: dict[str, dict[str, Any]] = {
    "loha": {"algorithm": "loha", "conv_rank": 2, "text_encoder": True},
    "lokr": {"algorithm": "lokr", "rank": 1, "conv_rank": 1, "text_encoder": True},
    "lokr in blocks": {
        "algorithm": "lokr",
        "rank": 8,
        "alpha": 24.0,
        "factor": 2,
        "block_rank": {"mid_block": 1},
    },
}
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


@one_family  # all of them are in tests/export/test_pictures.py
@pytest.mark.parametrize("kind", KINDS)
def test_same_picture_everywhere(kind: str, tiny_folder: Path, fresh: Fresh, tmp_path: Path) -> None:
    base = picture(fresh().pipeline())
    backbone = fresh()
    adapter = trained_lora(backbone, **KINDS[kind])
    learned = picture(backbone.pipeline())
    assert np.abs(learned - base).max() > 5
    write_kohya(tmp_path / "kohya.safetensors", adapter, {})
    assert write_diffusers(tmp_path / "diffusers.safetensors", adapter, {})  # as an equal LoRA
    pipeline = DiffusionPipeline.from_pretrained(tiny_folder, local_files_only=True)
    pipeline.load_lora_weights(tmp_path, weight_name="diffusers.safetensors")
    assert np.abs(picture(pipeline) - learned).max() < 1
    for name in ("kohya", "diffusers"):
        other = fresh()
        applied = apply_lora(other, read_lora(tmp_path / f"{name}.safetensors", other))
        assert np.abs(picture(other.pipeline()) - learned).max() < 1
        restore = applied.merge()
        assert np.abs(picture(other.pipeline()) - learned).max() < 1
        restore()
        assert np.array_equal(picture(other.pipeline()), base)


@one_family
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_kohya_by_formula(kind: str, backbone: Backbone, tmp_path: Path) -> None:
    """The file, read as LyCORIS's conventions say, gives the change that PEFT merges."""
    adapter = trained_lora(backbone, **KINDS[kind])
    write_kohya(tmp_path / "k.safetensors", adapter, {})
    tensors = load_file(tmp_path / "k.safetensors")
    for (part, name), layer in adapter.weights().layers.items():
        key = backbone.kohya_name(part, name)
        row = {k: tensors.pop(k) for k in list(tensors) if k.startswith(f"{key}.")}
        module: Any = backbone.module_roots()[part]
        live = module.get_submodule(name if part == "unet" else live_text_name(module, name))
        own = live.get_delta_weight("default")
        delta = lycoris_delta({k.removeprefix(f"{key}."): v for k, v in row.items()}, own.shape)
        torch.testing.assert_close(delta, own, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(delta, layer.delta(), rtol=1e-4, atol=1e-5)
    assert not tensors


def lycoris_delta(row: dict[str, Tensor], shape: torch.Size) -> Tensor:
    """What A1111 and ComfyUI compute from a layer's tensors."""
    alpha = row["alpha"].item()
    if "hada_w1_a" in row:
        change = (row["hada_w1_a"] @ row["hada_w1_b"]) * (row["hada_w2_a"] @ row["hada_w2_b"])
        return (change * alpha / row["hada_w1_b"].shape[0]).reshape(shape)
    rank = row["lokr_w2_b"].shape[0] if "lokr_w2_b" in row else None
    w1, w2 = row["lokr_w1"], row.get("lokr_w2")
    if w2 is None:
        w2 = row["lokr_w2_a"] @ row["lokr_w2_b"]
    if w2.ndim == 4:
        w1 = w1[:, :, None, None]
    return torch.kron(w1, w2.contiguous()).reshape(shape) * (alpha / rank if rank else 1)


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_large_ones_keep_pefts_names(
    kind: str, tiny_folder: Path, fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which we read, and of a LoKr the UNet that diffusers has, too."""
    monkeypatch.setattr(diffusers, "MAX_RANK", 0)
    backbone = fresh()
    adapter = trained_lora(
        backbone, **(KINDS[kind] | {"text_encoder": False, "block_rank": {"mid_block": 2}})
    )
    learned = picture(backbone.pipeline())
    file = tmp_path / "pytorch_lora_weights.safetensors"
    assert not write_diffusers(file, adapter, {})
    assert all(".hada_" in key or ".lokr_" in key for key in load_file(file))
    other = fresh()
    apply_lora(other, read_lora(tmp_path, other))
    assert np.abs(picture(other.pipeline()) - learned).max() < 1
    if kind == "lokr":
        pipeline = DiffusionPipeline.from_pretrained(tiny_folder, local_files_only=True)
        pipeline.unet.load_lora_adapter(tmp_path, weight_name=file.name, prefix="unet")
        assert np.abs(picture(pipeline) - learned).max() < 1


Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"  # 16 x 16
CONV = "lora_unet_mid_block_resnets_0_conv1"  # 16 x 16 x 3 x 3


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(math.prod(shape)))


def read(tmp_path: Path, backbone: Backbone, rows: dict[str, Tensor], key: str = CONV) -> Any:
    save_file({f"{key}.{kind}": value for kind, value in rows.items()}, tmp_path / "x.safetensors")
    (layer,) = read_lora(tmp_path / "x.safetensors", backbone).layers.values()
    return layer


@one_family
def test_other_peoples_layouts(backbone: Backbone, tmp_path: Path) -> None:
    # LoHa with a core ("tucker"): each half is core ×₁ a ×₂ b.
    rows = {f"hada_w{i}_{half}": drawn(2, 16) + i for i in (1, 2) for half in "ab"}
    rows |= {f"hada_t{i}": drawn(2, 2, 3, 3) + i for i in (1, 2)} | {"alpha": torch.tensor(1.0)}
    halves = [
        torch.einsum("ijkl,ip,jr->prkl", rows[f"hada_t{i}"], rows[f"hada_w{i}_a"], rows[f"hada_w{i}_b"])
        for i in (1, 2)
    ]
    layer = read(tmp_path, backbone, rows)
    assert isinstance(layer, Hadamard) and (layer.rank, layer.scale) == (2, 0.5)
    torch.testing.assert_close(layer.delta(), 0.5 * halves[0] * halves[1], rtol=1e-4, atol=1e-4)

    # LoKr with both factors in two parts, the right one with a core, divided unlike PEFT would.
    rows = {"lokr_w1_a": drawn(8, 2), "lokr_w1_b": drawn(2, 2), "lokr_t2": drawn(2, 2, 3, 3)}
    rows |= {"lokr_w2_a": drawn(2, 2), "lokr_w2_b": drawn(2, 8), "alpha": torch.tensor(3.0)}
    w1 = rows["lokr_w1_a"] @ rows["lokr_w1_b"]
    w2 = torch.einsum("ijkl,ip,jr->prkl", rows["lokr_t2"], rows["lokr_w2_a"], rows["lokr_w2_b"])
    layer = read(tmp_path, backbone, rows)
    assert isinstance(layer, Kronecker) and (layer.rank, layer.scale) == (2, 1.5)
    expected = 1.5 * torch.kron(w1[:, :, None, None], w2.contiguous())
    torch.testing.assert_close(layer.delta(), expected, rtol=1e-4, atol=1e-4)

    # Whole factors have no scale, whatever alpha says.
    rows = {"lokr_w1": drawn(4, 2), "lokr_w2": drawn(4, 8), "alpha": torch.tensor(99.0)}
    layer = read(tmp_path, backbone, rows, Q)
    torch.testing.assert_close(layer.delta(), torch.kron(rows["lokr_w1"], rows["lokr_w2"]))

    applied = apply_lora(backbone, read_lora(tmp_path / "x.safetensors", backbone))
    before = (
        backbone.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.get_base_layer().weight.clone()
    )
    restore = applied.merge()
    merged = backbone.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    torch.testing.assert_close(merged - before, layer.delta(), rtol=1e-4, atol=1e-5)
    restore()


@one_family
def test_kinds_add_up_and_come_off(fresh: Fresh, tmp_path: Path) -> None:
    for name, settings in {"a": {}, "b": KINDS["loha"], "c": KINDS["lokr"]}.items():
        write_kohya(tmp_path / f"{name}.safetensors", trained_lora(fresh(), **settings), {})
    backbone = fresh()
    pictures, applied = [picture(backbone.pipeline())], []
    for name in "abc":
        weights = read_lora(tmp_path / f"{name}.safetensors", backbone)
        applied.append(apply_lora(backbone, weights, 0.5))
        pictures.append(picture(backbone.pipeline()))
        assert np.abs(pictures[-1] - pictures[-2]).max() > 1
    applied[1].remove()  # from between the others
    write_kohya(tmp_path / "d.safetensors", trained_lora(fresh(), **KINDS["lokr"]), {})
    other = fresh()
    for name in "ad":
        apply_lora(other, read_lora(tmp_path / f"{name}.safetensors", other), 0.5)
    assert np.abs(picture(backbone.pipeline()) - picture(other.pipeline())).max() < 0.1
    applied[2].remove()
    assert np.array_equal(picture(backbone.pipeline()), pictures[1])
    applied[0].remove()
    assert np.array_equal(picture(backbone.pipeline()), pictures[0])


@one_family
@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"hada_w1_a": drawn(16, 2), "hada_w1_b": drawn(2, 144)}, "hada_w2_a is missing"),
        ({"lokr_w1": drawn(4, 4)}, "lokr_w2_a is missing"),
        ({"lokr_w1": drawn(4, 4), "lokr_w2": drawn(4, 4)}, "for a layer of"),
        ({"lokr_w1": drawn(4, 4), "lokr_w2": drawn(4, 4, 3, 3) / 0}, "NaN"),
        ({"lokr_w1": drawn(4, 4), "lokr_w2": drawn(4, 4, 3, 3), "dora_scale": drawn(3, 1)}, "3 DoRA magnit"),
        ({f"hada_w{i}_{h}": drawn(16, 2) for i in (1, 2) for h in "ab"}, "has shapes"),
    ],
)
def test_files_that_do_not_fit(
    rows: dict[str, Tensor], told: str, backbone: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=told):
        read(tmp_path, backbone, rows)
