"""What `finetune inspect` says of ControlNets and other parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from finetune.adapters.controlnet import ControlNet
from finetune.backbones import Backbone
from finetune.backbones.controlnet import FOLDER, WEIGHTS
from finetune.cli import main
from finetune.config import ControlNetSection
from finetune.formats.controlnet import write_control_lora, write_controlnet, write_controlnet_file
from finetune.tools.describe_parts import describe_part

Output = pytest.CaptureFixture[str]
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


@one_family
def test_controlnets_in_every_form(backbone: Backbone, tmp_path: Path, capsys: Output) -> None:
    adapter = ControlNet(backbone, ControlNetSection())
    run = tmp_path / "run"
    (run / FOLDER).mkdir(parents=True)
    write_controlnet(run / FOLDER, adapter, {"x": "1"}, torch.float16)
    write_controlnet_file(tmp_path / "one.safetensors", adapter.branch, {})
    count = sum(parameter.numel() for parameter in adapter.branch.parameters())
    for path, layout in {
        run: "diffusers",
        run / FOLDER: "diffusers",
        run / FOLDER / WEIGHTS: "diffusers",
        tmp_path / "one.safetensors": "the original code",
    }.items():
        found = describe_part(path)
        assert found is not None
        assert (found["kinds"], found["layout"], found["parameters"]) == (
            ["ControlNet"],
            layout,
            {"all": count},
        )
        assert "finetune" in found["loads_in"]
    assert main(["inspect", str(run)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "run: a ControlNet for an unknown family, with the key names of diffusers, float16"
    )
    assert main(["inspect", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metadata"]["x"] == "1"


@one_family
def test_a_control_lora(backbone: Backbone, tmp_path: Path) -> None:
    write_control_lora(tmp_path / "c.safetensors", ControlNet(backbone, ControlNetSection(rank=2)), {})
    found = describe_part(tmp_path / "c.safetensors")
    assert found is not None and found["kinds"] == ["Control-LoRA"]


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [
        ("adapter.body.0.in_conv.weight", "T2I-Adapter", None),
        ("image_proj.proj.weight", "IP-Adapter", None),
        ("conv_first.weight", "upscaler", None),
        ("first_stage_model.decoder.conv_in.weight", "VAE alone", None),
        ("encoder.down.0.weight", "VAE alone", None),
        ("zero_convs.0.0.weight", "ControlNet", "SD 2.x"),
        ("down_blocks.0.resnets.0.conv1.weight", "UNet alone", "SD 2.x"),
    ],
)
def test_others_are_named(name: str, kind: str, family: str | None, tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "x.safetensors"
    tensors = {name: torch.ones(2, 2)}
    if family:
        tensors["a.attn2.to_k.weight"] = torch.ones(4, 1024)
    save_file(tensors, file)
    found = describe_part(file)
    assert found is not None and (found["kinds"], found["family"]) == ([kind], family)
    assert main(["inspect", str(file)]) == 0
    article = "an" if kind[0] in "Iu" else "a"
    assert capsys.readouterr().out.startswith(f"x.safetensors: {article} {kind} for ")


def test_what_is_no_part_is_left_to_others(tmp_path: Path, capsys: Output) -> None:
    save_file({"lora_unet_x.lora_down.weight": torch.ones(1, 1)}, tmp_path / "l.safetensors")
    assert describe_part(tmp_path / "l.safetensors") is None and describe_part(tmp_path) is None
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    assert main(["inspect", str(tmp_path / "broken.safetensors")]) == 2
    assert "readable safetensors" in capsys.readouterr().err
