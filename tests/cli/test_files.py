"""The commands for files, as a user types them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from finetune.backbones import Backbone, load_backbone
from finetune.backbones.names import original_unet_name
from finetune.backbones.saving import save_folder
from finetune.cli import main
from finetune.config import ModelSection
from finetune.formats import read_lora, write_kohya
from tests.formats.conftest import trained_lora
from tests.tools.changes import assert_equal, best, by_peft

Output = pytest.CaptureFixture[str]
pytestmark = [pytest.mark.usefixtures("here"), pytest.mark.parametrize("family", ["sd1"], indirect=True)]


@pytest.fixture
def lora(here: Path, backbone: Backbone, tiny_folder: Path) -> str:
    """A LoRA whose metadata name the tiny model, as a run's do."""
    return written(backbone, "mycat.safetensors", tiny_folder)


def written(backbone: Backbone, name: str, model: Path, **settings: Any) -> str:
    adapter = trained_lora(backbone, **settings)
    recipe = {"kind": "lora", "model": {"name": str(model)}}
    write_kohya(Path(name), adapter, {"finetune.recipe": json.dumps(recipe), "finetune.version": "0.1.0"})
    adapter.detach()
    return name


def test_inspect(lora: str, tiny_folder: Path, capsys: Output) -> None:
    assert main(["inspect", lora]) == 0
    said = capsys.readouterr().out
    assert said.startswith("mycat.safetensors: a LoRA for SD 1.x")
    assert "unet mid_block" in said and "Loads in: A1111, Forge, ComfyUI, InvokeAI, diffusers" in said
    assert main(["inspect", lora, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == str(tiny_folder) and found["trained"]["recipe"] == "lora"
    assert main(["inspect", lora, "--model", "sdxl"]) == 2
    assert "match no layer" in capsys.readouterr().err


def test_resize(lora: str, tiny_folder: Path, capsys: Output) -> None:
    assert main(["resize", lora, "--rank", "2", "--output", "small.safetensors"]) == 0
    assert "unet mid_block" in (said := capsys.readouterr().out) and "differs from the original by" in said
    backbone = load_backbone(ModelSection(name=str(tiny_folder)))
    assert {r.rank for r in read_lora("small.safetensors", backbone).layers.values()} == {2}
    assert main(["resize", lora, "--rank", "2", "--output", "small.safetensors"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["resize", lora, "--energy", "0.5", "--output", "small.safetensors", "--force"]) == 0
    assert main(["inspect", "small.safetensors"]) == 0
    assert "Made by finetune resize from mycat.safetensors" in capsys.readouterr().out
    assert main(["sample", "a cat", "--lora", "small.safetensors", "--steps", "1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "none.safetensors"], "There is no such LoRA"),
        (["inspect", "text.safetensors"], "not a readable safetensors file"),
        (["resize", "mycat.safetensors", "--output", "out.safetensors"], "Give --rank, --energy or both"),
        (["resize", "mycat.safetensors", "--rank", "2", "--output", "out.pt"], "named .safetensors"),
        (["resize", "mycat.safetensors", "--energy", "2", "--output", "out.safetensors"], "0<x<=1"),
        (["resize", "text.safetensors", "--rank", "2", "--output", "out.safetensors"], "not a readable"),
        (["resize", "half.safetensors", "--rank", "2", "--output", "out.safetensors"], "missing"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    arguments: list[str], words: str, lora: str, here: Path, capsys: Output
) -> None:
    (here / "text.safetensors").write_text("no tensors")
    tensors = load_file(lora)
    half = {name: tensor for name, tensor in tensors.items() if "mid_block" not in name or "down" in name}
    save_file(half, "half.safetensors", {"ss_base_model_version": "sd_v1", "finetune.recipe": _recipe(lora)})
    before = sorted(here.iterdir())
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
    assert sorted(here.iterdir()) == before


def _recipe(lora: str) -> str:
    with safe_open(lora, "pt") as opened:
        recipe: str = opened.metadata()["finetune.recipe"]
    return recipe


def test_merge(lora: str, backbone: Backbone, tiny_folder: Path, capsys: Output) -> None:
    written(backbone, "style.safetensors", tiny_folder, text_encoder=True)
    loras = ["merge", "mycat.safetensors:0.5", "style.safetensors"]
    assert main([*loras, "--output", "both.safetensors"]) == 0
    assert "2 LoRAs by concat" in capsys.readouterr().out
    assert main([*loras, "--rank", "3", "--output", "three.safetensors", "--dtype", "fp16"]) == 0
    said = capsys.readouterr().out
    assert "2 LoRAs by svd" in said and "differs from the whole by" in said
    assert {tensor.dtype for tensor in load_file("three.safetensors").values()} == {torch.float16}
    assert main([*loras, "--method", "ties", "--density", "0.3", "--output", "ties.safetensors"]) == 0
    assert main(["inspect", "both.safetensors"]) == 0
    assert (
        "Made by finetune merge from mycat.safetensors × 0.5, style.safetensors × 1"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("out", ["merged", "merged.safetensors"])
def test_merge_into_the_model(
    out: str, lora: str, backbone: Backbone, tiny_folder: Path, here: Path, capsys: Output
) -> None:
    written(backbone, "style.safetensors", tiny_folder, text_encoder=True)
    loras = [(Path(lora), 0.5), (Path("style.safetensors"), -0.2)]
    command = ["merge", f"{lora}:0.5", "style.safetensors:-0.2", "--into-model", "--output", out]
    assert main(command) == 0
    assert "with 2 LoRAs merged in" in capsys.readouterr().out
    parts = by_peft(backbone, *loras[0]), by_peft(backbone, *loras[1])
    state = backbone.unet.state_dict()
    if out == "merged":
        unet = load_file("merged/unet/diffusion_pytorch_model.safetensors")
        told = json.loads(Path("merged/finetune.json").read_text())
    else:
        with safe_open(out, "pt") as opened:
            told = opened.metadata()
        assert told["modelspec.architecture"] == "stable-diffusion-v1"
        unet = {
            n: load_file(out)[f"model.diffusion_model.{original_unet_name(backbone.unet, n)}"] for n in state
        }
    about = json.loads(told["finetune.made_by"])
    assert [(one["file"], one["weight"]) for one in about["inputs"]] == [
        ("mycat.safetensors", 0.5),
        ("style.safetensors", -0.2),
    ]
    for name, weight in state.items():
        expected = weight + sum(part.get(f"unet.{name}", torch.zeros(())) for part in parts)
        torch.testing.assert_close(unet[name], expected, rtol=1e-5, atol=1e-6)
    assert main(command) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mycat.safetensors", "none.safetensors"], "There is no such LoRA"),
        (["mycat.safetensors", "--method", "concat", "--rank", "3"], "Use --method svd"),
        (
            ["mycat.safetensors", "--density", "0.3"],
            "--method ties, magnitude_prune, dare_linear, dare_ties only",
        ),
        (["mycat.safetensors", "--method", "ties", "--seed", "3"], "--method dare_linear, dare_ties only"),
        (["mycat.safetensors", "--into-model", "--rank", "3"], "so --rank would have no effect"),
        (["mycat.safetensors", "--into-model", "--to", "diffusers"], "so --to would have no effect"),
        (["mycat.safetensors:nan"], "not a finite number"),
        (["mycat.safetensors", "dora.safetensors"], "This is a DoRA"),
        (["mycat.safetensors", "dora.safetensors", "--into-model"], "depends on the weights"),
    ],
)
def test_what_cannot_be_merged_is_named_and_nothing_is_written(
    arguments: list[str],
    words: str,
    lora: str,
    backbone: Backbone,
    tiny_folder: Path,
    here: Path,
    capsys: Output,
) -> None:
    written(backbone, "dora.safetensors", tiny_folder, dora=True)
    before = sorted(here.iterdir())
    assert main(["merge", *arguments, "--output", "out.safetensors"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert sorted(here.iterdir()) == before


def test_extract(backbone: Backbone, tiny_folder: Path, here: Path, capsys: Output) -> None:
    other = copy.deepcopy(backbone)
    layer = other.unet.mid_block.resnets[0].conv1
    drawn = torch.Generator().manual_seed(0)
    moved = 0.1 * torch.randn(layer.weight.shape, generator=drawn)
    layer.weight.data += moved
    layer.bias.data += 1
    other.vae.quant_conv.bias.data += 1
    save_folder(other, here / "run" / "model")
    (here / "run" / "model" / "finetune.json").write_text('{"finetune.step": "9"}')
    command = ["extract", "run", "--rank", "4", "--output", "x.safetensors"]
    assert main(command) == 2
    assert "Nothing tells which model this one was trained from" in capsys.readouterr().err
    (here / "run" / "recipe.yaml").write_text(f"kind: full\nmodel: {{name: {tiny_folder}}}\n")
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"The difference of run from {tiny_folder}." in said and "unet mid_block" in said
    assert "in biases, norms and embeddings of unet" in said and "The VAE differs too" in said
    change = by_peft(backbone, here / "x.safetensors")
    assert_equal(change, {"unet.mid_block.resnets.0.conv1.weight": best(moved, 4)})
    with safe_open("x.safetensors", "pt") as opened:
        made = json.loads(opened.metadata()["finetune.made_by"])
    assert made["tuned"]["metadata"] == {"finetune.step": "9"} and made["tuned"]["model"] == "run"
    assert main(["inspect", "x.safetensors", "--model", str(tiny_folder)]) == 0
    assert "Made by finetune extract: run minus sd1." in capsys.readouterr().out
    assert main([*command, "--force", "--model", str(here / "run" / "model")]) == 2
    assert "do not differ in any layer" in capsys.readouterr().err
    assert (
        main(["extract", "none", "--rank", "4", "--output", "y.safetensors", "--model", str(tiny_folder)])
        == 2
    )
    assert "There is no model 'none'" in capsys.readouterr().err
    assert main(["extract", "run", "--output", "y.safetensors"]) == 2
    assert "--energy" in capsys.readouterr().err
    assert not (here / "y.safetensors").exists()


def test_diff(lora: str, backbone: Backbone, tiny_folder: Path, capsys: Output) -> None:
    assert main(["resize", lora, "--rank", "2", "--output", "small.safetensors"]) == 0
    error = capsys.readouterr().out.split("differs from the original by ")[1].strip().rstrip(".")
    assert main(["diff", lora, "small.safetensors"]) == 0
    said = capsys.readouterr().out
    # The same number in two ways: from the singular values, and from the files.
    assert error in next(line for line in said.splitlines() if line.startswith("all"))
    assert "Metadata ss_network_dim: 4 | 2" in said
    written(backbone, "text.safetensors", tiny_folder, text_encoder=True)
    assert main(["diff", lora, "text.safetensors"]) == 0
    assert "Only in B: text_encoder." in capsys.readouterr().out
    assert main(["diff", lora, lora]) == 0
    assert "They are the same in every weight." in capsys.readouterr().out
    assert main(["diff", lora, "small.safetensors", "--json"]) == 0
    assert f"{json.loads(capsys.readouterr().out)['all']['difference']:.2%}" == error

    assert main(["diff", str(tiny_folder), str(tiny_folder)]) == 0
    said = capsys.readouterr().out
    assert "vae" in said and "They are the same in every weight." in said
    for command, words in (
        (["diff", lora, str(tiny_folder)], "One of these is a model"),
        (["diff", lora, "none.safetensors"], "There is no such LoRA"),
        (["diff", str(tiny_folder), str(tiny_folder), "--model", "sdxl"], "--model has no effect"),
    ):
        assert main(command) == 2
        assert words in capsys.readouterr().err
