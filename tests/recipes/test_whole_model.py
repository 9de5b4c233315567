"""DreamBooth and full training on tiny random models: class pictures, and what is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from finetune.backbones import Backbone
from finetune.backbones.checkpoint import read_header
from finetune.backbones.folder import load_folder
from finetune.backbones.single_file import convert
from finetune.config import ModelSection
from finetune.errors import ConfigError
from finetune.recipes import build
from finetune.recipes.load import RECIPES, Setting, parse_set
from finetune.recipes.run import run
from tests.tiny import Family

SMALL = ("training.steps=2", "preview.every=0", "optimizer.name=adamw", "optimizer.warmup_steps=0")
WHOLE = ("output.weights=fp32", "training.ema=false")
CLASS = ("data.class_prompt=a cat", "data.num_class_images=3")
pytestmark = pytest.mark.usefixtures("here")


def train(kind: str, pictures: Path, model: Path, *changes: str, resume: bool = False) -> tuple[Path, str]:
    said: list[str] = []
    settings = [
        Setting(f"data.{RECIPES[kind].folder_field}", pictures, "test"),
        Setting("model.name", str(model), "--model"),
    ]
    whole = () if kind == "lora" else WHOLE
    given = {change.partition("=")[0]: change for change in (*SMALL, *whole, *changes)}
    recipe = build(kind, [*settings, *(parse_set(change) for change in given.values())])
    folder = run(recipe, resume=resume, tell=said.append).folder
    return folder, "\n".join(said)


def sampled(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.rglob("class-*.png"))}


def test_previews_are_in_the_precision_of_training(
    tiny_models: dict[str, Path], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed: list[bool] = []
    forward = UNet2DConditionModel.forward

    def spied(self: UNet2DConditionModel, *arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():  # a preview's
            mixed.append(
                torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
            )
        return forward(self, *arguments, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", spied)
    changes = ("training.precision=bf16", "training.steps=1", "preview.every=1", "preview.steps=2")
    train("full", pictures, tiny_models["sd1"], *changes)
    assert mixed and all(mixed)


@pytest.mark.parametrize("kind", ["dreambooth", "full"])
def test_the_model_loads_with_plain_diffusers(
    kind: str, tiny_folder: Path, family: Family, loaded: dict[str, Backbone], pictures: Path
) -> None:
    folder, said = train(kind, pictures, tiny_folder, "output.single_file=true", "adapter.text_encoder=true")
    trained = load_file(folder / "checkpoints" / "step-000002" / "weights.safetensors")
    pipe: Any = DiffusionPipeline.from_pretrained(folder / "model")
    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    for root, part in parts.items():
        own = {name.removeprefix("text_model."): p for name, p in part.state_dict().items()}
        for name, tensor in trained.items():
            if name.startswith(f"{root}."):
                tail = name.removeprefix(f"{root}.").removeprefix("text_model.")
                assert torch.equal(own[tail], tensor), name
    before = loaded[family]
    assert not torch.equal(pipe.unet.conv_in.weight, before.unet.conv_in.weight)
    assert torch.equal(pipe.vae.encoder.conv_in.weight, before.vae.encoder.conv_in.weight)
    about = json.loads((folder / "model" / "finetune.json").read_text())
    assert about["finetune.step"] == "2"
    assert json.loads(about["finetune.recipe"])["kind"] == kind

    file = folder / f"{folder.name}.safetensors"
    tokenizers = load_folder(tiny_folder, ModelSection()).tokenizers
    single = convert(
        file, family, tiny_folder, tokenizers, ModelSection(name="single"), read_header(file, False)
    )
    theirs = pipe.unet.state_dict()
    for name, tensor in single.unet.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    assert f"--model {folder / 'model'}" in said


def test_class_pictures_are_sampled_once_and_shared(tiny_models: dict[str, Path], pictures: Path) -> None:
    _, said = train("dreambooth", pictures, tiny_models["sd1"], *CLASS)
    assert 'Sampling 3 pictures of "a cat" into runs/class-pictures/a-cat-' in said
    (folder,) = (Path("runs") / "class-pictures").iterdir()
    first = sampled(folder)
    assert len(first) == 3
    # A sampling that was cut short goes on to the same pictures, and another recipe finds them there.
    (folder / "class-00001.png").unlink()
    _, said = train("lora", pictures, tiny_models["sd1"], *CLASS, "adapter.rank=2")
    assert "Sampling 1 picture of" in said
    assert sampled(folder) == first
    _, said = train("dreambooth", pictures, tiny_models["sd1"], *CLASS)
    assert "Sampling" not in said
    # Another model has pictures of its own.
    train("dreambooth", pictures, tiny_models["sd2"], *CLASS)
    assert len(list((Path("runs") / "class-pictures").iterdir())) == 2
    # So has a model that decodes another way.
    train("dreambooth", pictures, tiny_models["sd1"], *CLASS, "model.vae_precision=bf16")
    assert len(list((Path("runs") / "class-pictures").iterdir())) == 3


def test_class_pictures_are_those_of_the_model_behind_a_link(
    here: Path, tiny_models: dict[str, Path], pictures: Path
) -> None:
    link = here / "link"
    link.symlink_to(tiny_models["sd1"])
    train("dreambooth", pictures, link, *CLASS)
    _, said = train("dreambooth", pictures, link, *CLASS)
    assert "Sampling" not in said


def test_own_class_pictures_count(here: Path, tiny_models: dict[str, Path], pictures: Path) -> None:
    own = here / "cats"
    for number, folder in enumerate((own, own / "more")):
        folder.mkdir()
        Image.new("RGB", (40, 40), (number * 90, 120, 30)).save(folder / "0.jpg")
    _, said = train("dreambooth", pictures, tiny_models["sd1"], *CLASS, f"data.class_dir={own}")
    assert "Sampling 1 picture of" in said
    assert "class: 3 pictures" in said
    with pytest.raises(ConfigError, match="another prompt"):
        train(
            "dreambooth",
            pictures,
            tiny_models["sd1"],
            "data.class_prompt=a dog",
            "data.num_class_images=3",
            f"data.class_dir={own}",
        )


def test_class_options_without_a_class_are_refused(tiny_models: dict[str, Path], pictures: Path) -> None:
    with pytest.raises(ConfigError, match="Requires --class-prompt"):
        train("dreambooth", pictures, tiny_models["sd1"], "data.prior_weight=0.5")


def test_a_killed_run_resumes_to_the_same_bytes(tiny_models: dict[str, Path], pictures: Path) -> None:
    changes = (*CLASS, "training.steps=4", "training.checkpoint_every=2", "training.ema=true")
    folder, _ = train("dreambooth", pictures, tiny_models["sdxl"], *changes)
    unet = folder / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    whole = unet.read_bytes()
    averaged = load_file(folder / "checkpoints" / "step-000004" / "average.safetensors")
    last = load_file(folder / "checkpoints" / "step-000004" / "weights.safetensors")
    exported = load_file(unet)
    name = "conv_in.weight"
    assert torch.equal(exported[name], averaged[f"unet.{name}"]), "the average is exported"
    assert not torch.equal(exported[name], last[f"unet.{name}"]), "and the last weights are kept beside it"
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "step-000004")
    again, said = train("dreambooth", pictures, tiny_models["sdxl"], *changes, resume=True)
    assert again == folder and "Resuming from step 2 of 4." in said
    assert unet.read_bytes() == whole


# What makes a run of all weights small.
LEAN = (
    "training.accumulation=1",
    "adapter.weights=bf16",
    "training.precision=bf16",
    "optimizer.name=adamw_bf16",
    "optimizer.in_backward=true",
    "training.max_grad_norm=null",
)


def test_weights_in_bf16_learn_and_resume_to_the_same_bytes(
    tiny_models: dict[str, Path], pictures: Path
) -> None:
    changes = (*LEAN, "adapter.text_encoder=true", "training.steps=4", "training.checkpoint_every=2")
    folder, _ = train("full", pictures, tiny_models["sd1"], *changes, "optimizer.lr=1e-4")
    unet = folder / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    whole, exported = unet.read_bytes(), load_file(unet)
    start = load_folder(tiny_models["sd1"], ModelSection(name="x")).unet.state_dict()
    last = load_file(folder / "checkpoints" / "step-000004" / "weights.safetensors")
    for name, weight in exported.items():
        assert last[f"unet.{name}"].dtype == torch.bfloat16
        assert torch.equal(last[f"unet.{name}"].float(), weight)
    # Steps of 1e-4 are lost on weights of 0.05 when they are rounded to the nearest, half the distance of
    # neighbors being 1.2e-4; rounded at random, they arrive in the mean.
    wide = [n for n, w in start.items() if w.ndim > 1 and w.numel() > 1000]
    moved = torch.cat([(exported[n] - start[n].bfloat16().float()).flatten() for n in wide])
    assert 0.2 < float((moved != 0).float().mean()) < 1
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "step-000004")
    again, said = train("full", pictures, tiny_models["sd1"], *changes, "optimizer.lr=1e-4", resume=True)
    assert again == folder and "Resuming from step 2 of 4." in said
    assert unet.read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    ["optimizer.name=adamw", "training.precision=fp32", "training.ema=true", "training.accumulation=2"],
)
def test_what_weights_in_bf16_cannot_work_with_is_refused(
    tiny_models: dict[str, Path], pictures: Path, change: str
) -> None:
    with pytest.raises(ConfigError, match=r"adapter\.weights|training\.ema|optimizer\.in_backward"):
        train("full", pictures, tiny_models["sd1"], *LEAN, change)


def test_preserved_prompts_need_an_adapter_that_can_be_switched_off(
    tiny_models: dict[str, Path], pictures: Path, here: Path
) -> None:
    with pytest.raises(ConfigError, match="switched off"):
        train("dreambooth", pictures, tiny_models["sd1"], "data.preserve=[a cat]")
    assert list(here.iterdir()) == []
