"""Other people's files, and files that are none."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from finetune.adapters import LoRAWeights
from finetune.backbones import Backbone, load_backbone
from finetune.config import ModelSection
from finetune.errors import WeightsError
from finetune.formats import apply_lora, read_lora, read_tensors, write_diffusers, write_kohya
from finetune.formats.diffusers import diffusers_tensors
from tests.formats.conftest import trained_lora

Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "mid_block.resnets.0.conv1"
KOHYA_Q = "lora_unet_" + Q.replace(".", "_")
KOHYA_CONV = "lora_unet_" + CONV.replace(".", "_")
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


def effect(weights: LoRAWeights, part: str, name: str) -> Tensor:
    layer = weights.layers[part, name]
    return layer.scale * layer.up.flatten(1) @ layer.down.flatten(1)


def old_processors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As diffusers named attention before PEFT."""
    spelled = {}
    for name, tensor in tensors.items():
        for letter in "qkv":
            name = name.replace(f".to_{letter}.lora_", f".processor.to_{letter}_lora.")
        name = name.replace(".to_out.0.lora_", ".processor.to_out_lora.")
        spelled[name.replace("_lora.A", "_lora.down").replace("_lora.B", "_lora.up")] = tensor
    return spelled


LAYOUTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "with prefix": dict,
    "without prefix": lambda tensors: {n.removeprefix("unet."): t for n, t in tensors.items()},
    "PEFT alone": lambda tensors: {
        "base_model.model." + n.removeprefix("unet."): t for n, t in tensors.items()
    },
    "training scripts": convert_state_dict_to_diffusers,
    "processors": old_processors,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_diffusers_layouts(layout: str, backbone: Backbone, tmp_path: Path) -> None:
    weights = trained_lora(backbone).weights()
    spelled = LAYOUTS[layout](diffusers_tensors(weights))
    save_file({n: t.contiguous() for n, t in spelled.items()}, tmp_path / "x.safetensors")
    read = read_lora(tmp_path / "x.safetensors", backbone)
    assert read.layers.keys() == weights.layers.keys()
    for part, name in weights.layers:
        torch.testing.assert_close(effect(read, part, name), effect(weights, part, name))


def test_text_encoder_of_training_scripts(backbone: Backbone, tmp_path: Path) -> None:
    """`lora_linear_layer`, made by diffusers' own function."""
    weights = trained_lora(backbone, text_encoder=True).weights()
    tensors = diffusers_tensors(weights)
    text = {n: t for n, t in tensors.items() if n.startswith("text_encoder")}
    spelled = convert_state_dict_to_diffusers(text)
    assert any("lora_linear_layer" in name for name in spelled)
    save_file(spelled, tmp_path / "x.safetensors")
    read = read_lora(tmp_path / "x.safetensors", backbone)
    assert read.layers.keys() == {key for key in weights.layers if key[0] != "unet"}


@one_family
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_saves_what_we_read(rslora: bool, backbone: Backbone, tmp_path: Path) -> None:
    """Saved by PEFT itself, with strength in diffusers' metadata."""
    config = LoraConfig(
        r=4, lora_alpha=2, target_modules=["to_q"], use_rslora=rslora, init_lora_weights=False
    )
    model = get_peft_model(backbone.unet, config)
    merged = model.base_model.model.get_submodule(Q).get_delta_weight("default")
    tensors = get_peft_model_state_dict(model)
    metadata = f'{{"unet.r": 4, "unet.lora_alpha": 2, "unet.use_rslora": {str(rslora).lower()}}}'
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": metadata})
    read = read_lora(tmp_path / "x.safetensors", backbone)
    torch.testing.assert_close(effect(read, "unet", Q), merged)


@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
def test_both_kohya_spellings_of_sdxl(backbone: Backbone, tmp_path: Path) -> None:
    weights = trained_lora(backbone).weights()
    spelled = {f"lora_unet_{name.replace('.', '_')}": w for (_, name), w in weights.layers.items()}
    tensors = {f"{n}.lora_down.weight": w.down for n, w in spelled.items()}
    tensors |= {f"{n}.lora_up.weight": w.up for n, w in spelled.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    read = read_lora(tmp_path / "x.safetensors", backbone)
    assert read.layers.keys() == weights.layers.keys()
    assert {w.scale for w in read.layers.values()} == {1.0}  # no alpha: the rank


@one_family
def test_alpha_and_mid(backbone: Backbone, tmp_path: Path) -> None:
    drawn = torch.Generator().manual_seed(0)
    conv = backbone.unet.get_submodule(CONV)
    down = torch.randn(3, conv.in_channels, 1, 1, generator=drawn)
    mid = torch.randn(3, 3, 3, 3, generator=drawn)
    up = torch.randn(conv.out_channels, 3, 1, 1, generator=drawn)
    tensors = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}
    tensors = {f"{KOHYA_CONV}.{n}": t.half() for n, t in tensors.items()}
    save_file(tensors | {f"{KOHYA_CONV}.alpha": torch.tensor(6.0)}, tmp_path / "x.safetensors")
    read = read_lora(tmp_path / "x.safetensors", backbone)
    applied = apply_lora(backbone, read, scale=0.5)
    x = torch.randn(1, conv.in_channels, 5, 5, generator=drawn)
    change = backbone.unet.get_submodule(CONV)(x) - conv(x)
    steps = torch.conv2d(torch.conv2d(torch.conv2d(x, down), mid, padding=1), up)
    torch.testing.assert_close(change, 0.5 * 6 / 3 * steps, rtol=2e-2, atol=5e-2)  # fp16 in the file
    applied.remove()
    assert backbone.unet.get_submodule(CONV) is conv


@one_family
def test_one_by_one_convolutions_are_linear(backbone: Backbone, tmp_path: Path) -> None:
    size = backbone.unet.get_submodule(Q).weight.shape[0]
    tensors = {"lora_down.weight": torch.ones(2, size, 1, 1), "lora_up.weight": torch.ones(size, 2, 1, 1)}
    save_file({f"{KOHYA_Q}.{n}": t for n, t in tensors.items()}, tmp_path / "x.safetensors")
    assert read_lora(tmp_path / "x.safetensors", backbone).layers["unet", Q].down.shape == (2, size)


# --- what does not fit ----------------------------------------------------------------------------


def q_file(folder: Path, metadata: dict[str, str] | None = None, **more: Tensor) -> Path:
    tensors = {
        f"{KOHYA_Q}.lora_down.weight": torch.ones(2, 16),
        f"{KOHYA_Q}.lora_up.weight": torch.ones(16, 2),
    }
    tensors |= {name.replace("__", "."): tensor for name, tensor in more.items()}
    save_file(tensors, folder / "x.safetensors", metadata)
    return folder / "x.safetensors"


@one_family
@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"lora_unet_nowhere__alpha": torch.ones(())}, "1 of 3 keys match no layer: lora_unet_nowhere.alpha"),
        ({"something": torch.ones(1)}, "something"),
        ({f"{KOHYA_CONV}__alpha": torch.ones(())}, "conv1: lora_(down|up) is missing"),
        ({f"{KOHYA_Q}__lora_down__weight": torch.ones(2, 99)}, r"\(2, 99\)"),
        ({f"{KOHYA_Q}__lora_up__weight": torch.ones(16, 3)}, r"\(16, 3\)"),
        ({f"{KOHYA_Q}__lora_up__weight": torch.full((16, 2), math.nan)}, "NaN"),
        ({f"{KOHYA_Q}__dora_scale": torch.ones(1, 7)}, "7 DoRA magnitudes for 16 inputs"),
        ({f"{KOHYA_Q}__dora_scale": torch.ones(3, 1)}, "3 DoRA magnitudes"),
        ({f"{KOHYA_CONV}__hada_w1_a": torch.ones(2, 2)}, "hada_w1_b is missing"),
        ({f"{KOHYA_CONV}__oft_blocks": torch.ones(2, 2)}, "OFT"),
        ({f"{KOHYA_Q}__alpha": torch.ones(2)}, "has 2 alphas"),
        ({f"{KOHYA_Q}__lora_down__weight": torch.tensor(1.0)}, r"down has the shape \(\)"),
        ({f"{KOHYA_Q}__lora_mid__weight": torch.ones(2, 5, 3, 3)}, "a core and a matrix that do not fit"),
        ({"bundle_emb__": torch.ones(1)}, "1 of 3 keys match no layer: bundle_emb"),
        ({f"{KOHYA_Q}__lora_down__weight": torch.ones(0, 16)}, "down is empty"),
        ({f"{KOHYA_Q}__lora_up__weight": torch.ones(16, 2).int()}, "to_q.lora_up.weight is int32"),
        ({f"{KOHYA_Q}__lora_up__weight": torch.ones(16, 2).bool()}, "to_q.lora_up.weight is bool"),
        ({f"{KOHYA_Q}__alpha": torch.tensor(True)}, "to_q.alpha is bool"),
        ({f"{KOHYA_Q}__scale_weight": torch.ones(())}, "to_q.scale_weight(.|\n)*fp8 weights with separate"),
    ],
)
def test_keys_that_do_not_fit(more: dict[str, Tensor], told: str, backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=told) as caught:
        read_lora(q_file(tmp_path, **more), backbone)
    assert caught.value.where and caught.value.fix


@one_family
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_is_read_in_fp32(dtype: torch.dtype, backbone: Backbone, tmp_path: Path) -> None:
    values = torch.tensor([0.5, -1.5]).repeat(8, 1)
    more = {
        f"{KOHYA_Q}__lora_up__weight": values.repeat(2, 1).to(dtype),
        f"{KOHYA_Q}__alpha": torch.tensor(4),
    }
    layer = read_lora(q_file(tmp_path, **more), backbone).layers["unet", Q]
    assert layer.alpha == 4 and layer.up.dtype == torch.float32  # a whole number will do as an alpha
    assert torch.equal(layer.up, values.repeat(2, 1))


@one_family
def test_many_misfits_are_counted(backbone: Backbone, tmp_path: Path) -> None:
    more = {f"lora_unet_x{i}__alpha": torch.ones(()) for i in range(9)}
    with pytest.raises(WeightsError, match=r"9 of 11 keys.*and 6 more"):
        read_lora(q_file(tmp_path, **more), backbone)


# The tiny SD 2 has SD 1's widths and fewer text layers, so its LoRA truly fits.
@pytest.mark.parametrize("made", ["sd1", "sdxl"])
def test_wrong_family(made: str, backbone: Backbone, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    from finetune.formats.families import FAMILY_NAMES

    other = load_backbone(ModelSection(name=str(tiny_models[made])))
    names = FAMILY_NAMES[made]
    lora = trained_lora(other, targets="all", text_encoder=True)
    write_diffusers(tmp_path / "d.safetensors", lora, {"ss_base_model_version": names.base_version[0]})
    write_kohya(tmp_path / "k.safetensors", lora, {"modelspec.architecture": f"{names.architecture[1]}/lora"})
    for file in ("d.safetensors", "k.safetensors"):
        if made == backbone.family:
            assert read_lora(tmp_path / file, backbone).layers.keys() == lora.weights().layers.keys()
        else:
            with pytest.raises(WeightsError, match=f"made for {names.title}"):
                read_lora(tmp_path / file, backbone)


@one_family
@pytest.mark.parametrize(
    ("key", "width", "title"),
    [
        ("lora_unet_x_attn2_to_k.lora_down.weight", 768, None),
        ("lora_unet_x_attn2_to_k.lora_down.weight", 1024, "SD 2.x"),
        ("unet.x.attn2.to_k.lora_A.weight", 2048, "SDXL"),
        ("lora_te2_text_model_x.lora_down.weight", 8, "SDXL"),
        ("transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight", 8, "Flux"),
    ],
)
def test_family_is_guessed(
    key: str, width: int, title: str | None, backbone: Backbone, tmp_path: Path
) -> None:
    save_file({key: torch.ones(2, width)}, tmp_path / "x.safetensors")
    told = f"made for {title}" if title else "trained on"
    with pytest.raises(WeightsError, match=told):
        read_lora(tmp_path / "x.safetensors", backbone)


@one_family
def test_files_that_are_none(backbone: Backbone, tmp_path: Path) -> None:
    def refused(path: Path, told: str) -> None:
        with pytest.raises(WeightsError, match=told) as caught:
            read_lora(path, backbone)
        assert caught.value.fix and caught.value.exit_code == 2

    refused(tmp_path / "nothing.safetensors", "no such LoRA")
    refused(tmp_path, "holds no LoRA")
    whole = q_file(tmp_path)
    for name, content in {
        "empty": b"",
        "text": b"hello, I am a text file and longer than eight bytes",
        "pickle": pickle.dumps({"lora": 1}),
        "half": whole.read_bytes()[:-40],
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "not a readable safetensors file")
    save_file({"x": torch.ones(1)}, tmp_path / "other")
    refused(tmp_path / "other", "holds no LoRA")
    save_file({}, tmp_path / "void")
    refused(tmp_path / "void", "holds no LoRA")
    refused(q_file(tmp_path, {"lora_adapter_metadata": "{"}), "damaged")


@one_family
def test_folders(backbone: Backbone, tmp_path: Path) -> None:
    file = q_file(tmp_path)
    (tmp_path / "._x.safetensors").write_bytes(b"what macOS keeps beside a file on other disks")
    assert read_lora(tmp_path, backbone).layers
    file.rename(tmp_path / "pytorch_lora_weights.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "mycat.safetensors")
    assert read_lora(tmp_path, backbone).layers  # diffusers' name is what a run folder has
    (tmp_path / "pytorch_lora_weights.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="2 files"):
        read_lora(tmp_path, backbone)


def test_nothing_is_changed_by_a_refusal(backbone: Backbone, tmp_path: Path) -> None:
    before = list(backbone.unet.state_dict())
    save_file({"lora_unet_x.lora_down.weight": torch.ones(1, 1)}, tmp_path / "x")
    with pytest.raises(WeightsError):
        read_lora(tmp_path / "x", backbone)
    assert list(backbone.unet.state_dict()) == before
    assert read_tensors(tmp_path / "x")[0].keys() == {"lora_unet_x.lora_down.weight"}
