"""The files of ControlNets: read by plain diffusers, the same bytes each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel
from safetensors import safe_open

from finetune.adapters import ControlNet
from finetune.backbones import Backbone
from finetune.config import ControlNetSection
from finetune.errors import WeightsError
from finetune.formats import write_control_lora, write_controlnet
from tests.adapters.test_controlnet import inputs, stirred
from tests.tiny import Family


def with_factor_8(backbone: Backbone) -> Backbone:
    """The model with a VAE of the published depth, which diffusers' reader of Control-LoRAs relies on."""
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
    )
    return replace(backbone, vae=vae)


def test_the_folder(backbone: Backbone, tmp_path: Path) -> None:
    adapter = stirred(ControlNet(backbone, ControlNetSection()))
    metadata = {"b": "2", "a": "1", "modelspec.architecture": "stable-diffusion-v1/lora"}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_controlnet(tmp_path / name, adapter, metadata, torch.float16)
    first, second = (tmp_path / name / "diffusion_pytorch_model.safetensors" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    with safe_open(first, framework="pt") as file:
        assert file.metadata()["modelspec.architecture"] == "stable-diffusion-v1/controlnet"
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    plain = ControlNetModel.from_pretrained(tmp_path / "one", torch_dtype=torch.float32)
    weights = adapter.weights()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, weights[name].half().float())


@pytest.mark.filterwarnings("ignore")  # diffusers' own, about this rarely used way
def test_diffusers_reads_a_control_lora(family: Family, backbone: Backbone, tmp_path: Path) -> None:
    backbone = with_factor_8(backbone)
    adapter = stirred(ControlNet(backbone, ControlNetSection(rank=2))).eval()
    write_control_lora(tmp_path / "control.safetensors", adapter, {})
    plain = ControlNetModel.from_unet(backbone.unet)
    plain.load_lora_adapter(str(tmp_path), weight_name="control.safetensors", prefix=None)
    given = inputs(backbone)
    with torch.no_grad():
        expected = adapter(*given)
        torch.testing.assert_close(backbone.predict(*given, plain), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(backbone.predict(*given), expected)


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_what_is_not_finite_is_not_written(backbone: Backbone, tmp_path: Path) -> None:
    adapter = ControlNet(backbone, ControlNetSection())
    adapter.branch.controlnet_mid_block.bias.data[0] = 70000.0
    with pytest.raises(WeightsError, match=r"controlnet_mid_block\.bias holds NaN or infinity in float16"):
        write_controlnet(tmp_path, adapter, {}, torch.float16)
    assert not list(tmp_path.iterdir())
    write_controlnet(tmp_path, adapter, {}, torch.bfloat16)
