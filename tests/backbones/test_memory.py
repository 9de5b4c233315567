"""Weights are held once, in the type that their file has them in, until they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from finetune.adapters.full import Full
from finetune.backbones import Backbone, load_backbone, load_stored
from finetune.backbones.memory import computing_in
from finetune.backbones.precision import stored_dtype
from finetune.backbones.saving import save_folder
from finetune.config import FullSection, ModelSection

CAPTIONS = ["a red cat", "a dog"]


@pytest.fixture
def half(backbone: Backbone, tmp_path: Path) -> Path:
    """The tiny model of each family as a folder in fp16."""
    save_folder(backbone, tmp_path / "half", torch.float16)
    return tmp_path / "half"


def parts(backbone: Backbone) -> dict[str, nn.Module]:
    return {**backbone.module_roots(), "vae": backbone.vae}


def test_parts_are_loaded_in_the_type_of_their_file(half: Path) -> None:
    wide = half / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.float() for name, tensor in load_file(wide).items()}, wide)
    section = ModelSection(name=str(half))
    stored = {
        name: {p.dtype for p in part.parameters()} for name, part in parts(load_stored(section)).items()
    }
    assert stored.pop("vae") == {torch.float32}
    assert all(types == {torch.float16} for types in stored.values())
    assert {p.dtype for part in parts(load_backbone(section)).values() for p in part.parameters()} == {
        torch.float32
    }


def test_a_file_of_several_types_is_loaded_in_fp32() -> None:
    assert stored_dtype({"F16", "I64"}) == torch.float16
    assert stored_dtype({"BF16"}) == torch.bfloat16
    assert {stored_dtype(t) for t in ({"F16", "BF16"}, {"F16", "F32"}, {"F64"}, {"F8_E4M3"})} == {
        torch.float32
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_casting_gives_the_bits_that_go_through_fp32(half: Path, dtype: torch.dtype) -> None:
    section = ModelSection(name=str(half))
    backbone = load_stored(section).to("cpu", dtype)
    with safe_open(half / "unet" / "diffusion_pytorch_model.safetensors", framework="pt") as file:
        for name, tensor in backbone.unet.state_dict().items():
            assert torch.equal(tensor, file.get_tensor(name).float().to(dtype))
    wide = load_backbone(section)
    for encoder in wide.text_encoders:
        encoder.to(dtype)
    wide.text_dtype = None  # as the encoders are
    tokens = backbone.tokenize(CAPTIONS)
    for found, expected in zip(backbone.encode_text(tokens), wide.encode_text(tokens), strict=True):
        assert found is expected or torch.equal(found, expected)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for found, expected in zip(backbone.encode_pixels(pixels), wide.encode_pixels(pixels), strict=True):
        assert torch.equal(found, expected)
        assert torch.equal(backbone.decode(found), wide.decode(expected))


def test_encoders_are_the_very_same_tensors_after_use(half: Path) -> None:
    backbone = load_stored(ModelSection(name=str(half))).to("cpu", torch.bfloat16)
    modules = (backbone.vae, *backbone.text_encoders)
    before = [tensor.data_ptr() for module in modules for tensor in module.parameters()]
    backbone.encode_text(backbone.tokenize(CAPTIONS))
    backbone.decode(backbone.encode_pixels(torch.zeros(1, 3, 32, 32))[0])
    with pytest.raises(KeyError), computing_in(torch.float32, modules):
        raise KeyError
    assert [tensor.data_ptr() for module in modules for tensor in module.parameters()] == before


def test_masters_of_full_training_are_fp32_and_exact(half: Path) -> None:
    backbone = load_stored(ModelSection(name=str(half)))
    exact = {name: tensor.float() for name, tensor in backbone.unet.state_dict().items()}
    Full(backbone, FullSection(text_encoder=True))
    backbone.to("cpu", torch.bfloat16)
    for name, tensor in backbone.unet.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, exact[name])
    assert {p.dtype for e in backbone.text_encoders for p in e.parameters()} == {torch.float32}


def test_a_fingerprint_does_not_depend_on_the_precision_that_is_chosen(half: Path) -> None:
    found = set()
    for dtype in (torch.float32, torch.bfloat16):
        backbone = load_stored(ModelSection(name=str(half)))
        before = backbone.fingerprint()
        backbone.to("cpu", dtype)
        found |= {(before, backbone.fingerprint_vae(), backbone.fingerprint_text())}
        assert backbone.fingerprint() == before
    assert len(found) == 1


_PEAK = """
import sys
import torch
from safetensors.torch import save_file
from diffusers import UNet2DConditionModel
from finetune.backbones.fingerprint import fingerprint
from finetune.backbones.part import load_part
from finetune.backbones.memory import computing_in, move, release
from finetune.kernels import keep_freed_memory

def held(what):
    status = open("/proc/self/status").read()
    return int(status.partition(what)[2].split()[0]) / 2**10

from pathlib import Path
folder = Path(sys.argv[1])
move(load_part(UNet2DConditionModel, folder / "small", False, []), "cpu", torch.bfloat16)  # imports, threads
keep_freed_memory()
before = held("VmHWM:")
module = load_part(UNet2DConditionModel, folder / "large", False, []).requires_grad_(False)
fingerprint([module], [])
loaded = held("VmRSS:") - before
with computing_in(torch.bfloat16, [module]):
    pass
used = held("VmHWM:") - before
release(module)
move(module, "cpu", torch.bfloat16)
print(loaded, used, held("VmHWM:") - before, held("VmRSS:") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="Linux tells what is in memory")
def test_loading_hashing_and_casting_hold_the_weights_at_most_once(tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    common = {"norm_num_groups": 8, "layers_per_block": 1, "cross_attention_dim": 16, "attention_head_dim": 8,
              "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}  # fmt: skip
    for name, channels in (("small", (8, 8)), ("large", (64, 448))):
        UNet2DConditionModel(block_out_channels=channels, **common).half().save_pretrained(tmp_path / name)
    size = (tmp_path / "large" / "diffusion_pytorch_model.safetensors").stat().st_size / 2**20
    assert size > 30
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path)], check=True, capture_output=True, text=True
    )
    loaded, used, cast, after = map(float, done.stdout.split())
    assert loaded < 0.2 * size  # mapped and hashed, but not kept in memory
    assert used < 1.3 * size
    assert cast < 1.3 * size
    assert 0.9 * size < after < 1.3 * size
