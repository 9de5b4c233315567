"""Whole ControlNet runs on tiny random models: what they leave, how they resume, what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from finetune.cli import main
from finetune.errors import UserError
from finetune.recipes import build, load_recipe
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import run

SMALL = ("training.steps=2", "training.log_every=1", "preview.every=0", "optimizer.warmup_steps=0",
         "optimizer.name=adamw")  # fmt: skip
WEIGHTS = Path("controlnet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs go below a working directory that holds a folder of pairs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs" / "maps").mkdir(parents=True)
    lines = []
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pairs" / f"{i}.png")
        Image.fromarray(255 - pixels).save(tmp_path / "pairs" / "maps" / f"{i}.png")
        line = {"file_name": f"{i}.png", "conditioning_image": f"maps/{i}.png", "text": f"picture {i}"}
        lines.append(json.dumps(line) + "\n")
    (tmp_path / "pairs" / "metadata.jsonl").write_text("".join(lines))
    return tmp_path


def train(model: Path, *changes: str, resume: bool = False) -> tuple[Path, list[str]]:
    given = [Setting("data.data_dir", "pairs", "here"), Setting("model.name", str(model), "here")]
    recipe = build("controlnet", [*given, *(parse_set(change) for change in (*SMALL, *changes))])
    said: list[str] = []
    return run(recipe, resume=resume, tell=said.append).folder, said


def test_a_branch_in_bf16_is_trained_and_exported(tiny_models: dict[str, Path]) -> None:
    changes = ("adapter.weights=bf16", "training.precision=bf16", "optimizer.name=adamw_bf16",
               "optimizer.in_backward=true", "training.max_grad_norm=null", "optimizer.lr=1e-2")  # fmt: skip
    folder, _ = train(tiny_models["sd1"], *changes)
    trained = load_file(folder / "checkpoints" / "step-000002" / "weights.safetensors")
    branch = ControlNetModel.from_pretrained(folder / "controlnet")
    for name, weight in branch.state_dict().items():
        assert trained[f"controlnet.{name}"].dtype == torch.bfloat16
        torch.testing.assert_close(trained[f"controlnet.{name}"].float(), weight, rtol=1e-3, atol=1e-6)
    assert branch.state_dict()["controlnet_mid_block.weight"].abs().max() > 0  # zero at first
    with pytest.raises(UserError, match=r"adapter\.weights"):
        train(tiny_models["sd1"], *changes, "adapter.rank=2")


@pytest.mark.parametrize("rank", [(), ("adapter.rank=2",)], ids=["full", "low rank"])
def test_what_a_run_leaves(family: str, tiny_folder: Path, rank: tuple[str, ...]) -> None:
    shown = ("preview.every=2", "preview.steps=1", "preview.num=2")
    folder, said = train(tiny_folder, *rank, *shown)
    assert folder == Path("runs/pairs-controlnet")
    with Image.open(folder / "samples" / "step-000002.png") as sheet:
        told: Any = sheet.text  # type: ignore[attr-defined]
    samples = json.loads(told["finetune"])["samples"]
    assert [sample["prompt"] for sample in samples] == ["picture 0", "picture 1"]
    assert samples[0]["controlnets"][0]["name"] == "controlnet"
    ControlNetModel.from_pretrained(folder / "controlnet")
    assert (folder / "pairs-controlnet.safetensors").is_file() == bool(rank)
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["finetune.step"] == "2"
    assert json.loads(metadata["finetune.recipe"])["data"]["data_dir"] == "pairs"
    assert any("--controlnet runs/pairs-controlnet:PICTURE.png" in line for line in said)
    assert load_recipe(folder / "recipe.yaml").output.name == "pairs-controlnet"


def test_a_killed_run_resumes_to_the_same_bytes(tiny_models: dict[str, Path]) -> None:
    changes = (
        "training.steps=4",
        "training.checkpoint_every=2",
        "data.control_dropout=0.5",
        "data.flip=true",
    )
    folder, _ = train(tiny_models["sd2"], *changes)
    whole = (folder / WEIGHTS).read_bytes()
    shutil.rmtree(folder / "controlnet")
    shutil.rmtree(folder / "checkpoints" / "step-000004")
    _, said = train(tiny_models["sd2"], *changes, resume=True)
    assert "Resuming from step 2 of 4." in said
    assert (folder / WEIGHTS).read_bytes() == whole


def test_going_on_with_a_controlnet(tiny_models: dict[str, Path]) -> None:
    model, exact = tiny_models["sd1"], "output.weights=fp32"
    first, _ = train(model, exact)
    second, _ = train(model, exact, f"adapter.start={first}", "optimizer.lr=1e-8")
    files = [folder / WEIGHTS for folder in (first, second)]
    with safe_open(files[0], framework="pt") as one, safe_open(files[1], framework="pt") as other:
        for name in one.keys():  # noqa: SIM118
            assert abs(one.get_tensor(name) - other.get_tensor(name)).max() < 1e-6
        assert json.loads(other.metadata()["finetune.recipe"])["adapter"]["start"] == first.name


def test_sampling_by_command(tiny_models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = train(tiny_models["sdxl"])
    few = ["--steps", "4", "--guidance", "1"]
    control = f"{folder}:pairs/maps/0.png"
    several = ["--controlnet", f"{control}:edges", "--controlnet", f"{control}:0.5:0.25-0.75:edges"]
    assert main(["sample", "a cat", *several, *few]) == 0
    said = capsys.readouterr().out
    assert f"because {folder} was made for it" in said
    with Image.open("samples/a-cat-0.png") as picture:
        made = json.loads(picture.text["finetune"])["samples"][0]  # type: ignore[attr-defined]
    alike = {"name": "pairs-controlnet", "preprocess": "edges"}
    assert made["controlnets"] == [
        {**alike, "scale": 1.0, "start": 0.0, "end": 1.0},
        {**alike, "scale": 0.5, "start": 0.25, "end": 0.75},
    ]
    for wrong, word in {
        str(folder): "The control picture is missing.",
        f"{control}:1:0.5-0.2": "cannot act from",
        "pairs:pairs/0.png": "no ControlNet here",
    }.items():
        assert main(["sample", "a cat", *few, "--controlnet", wrong]) == 2
        out, err = capsys.readouterr()
        assert word in err
        assert "Model" not in out, "told before a model is chosen and loaded"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (["data.preprocess=edges", "data.conditioning_dir=pairs/maps"], "made from the pictures"),
        (["data.canny_thresholds=[50, 100]"], "no effect while"),
        (["adapter.rank=2", "adapter.start=x"], "cannot start from"),
        (["adapter.start=missing"], "no such folder"),
        (["data.preprocess=edges"], "given twice"),
        (["data.data_dir=missing"], "no such folder"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    here: Path, tiny_models: dict[str, Path], changes: list[str], word: str
) -> None:
    with pytest.raises(UserError, match=word) as caught:
        train(tiny_models["sd1"], *changes)
    assert caught.value.fix
    assert [path.name for path in here.iterdir()] == ["pairs"]


def test_a_controlnet_of_another_model_is_refused(tiny_models: dict[str, Path]) -> None:
    folder, _ = train(tiny_models["sd1"])
    with pytest.raises(UserError, match="another model than"):
        train(tiny_models["sdxl"], f"adapter.start={folder}")
