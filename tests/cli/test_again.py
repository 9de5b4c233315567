"""`finetune sample --from`: the same picture again, or what is missing for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from finetune.cli import main
from tests.sampling.test_control import branches as branches
from tests.sampling.test_control import picture
from tests.sampling.test_loras import peft_lora

FEW = ["--steps", "3", "--output-dir", "first"]


def again(*flags: str, name: str = "a-cat-7.png") -> bool:
    """Whether the picture in `first` is made again to the bit."""
    assert main(["sample", "--from", f"first/{name}", "--output-dir", "again", *flags]) == 0
    one, other = (np.asarray(Image.open(f"{folder}/{name}")) for folder in ("first", "again"))
    return bool(np.array_equal(one, other))


def test_the_same_picture_from_noise(tiny_folder: Path, here: Path) -> None:
    flags = (
        "--seed 7 --negative ugly --guidance 3.5 --scheduler euler-a --size 40x32 --set sampling.hires=1.5"
    )
    assert main(["sample", "a cat", "--model", str(tiny_folder), *flags.split(), *FEW]) == 0
    assert again("--model", str(tiny_folder))
    # Only the last part of the model's path is in the picture.
    assert main(["sample", "--from", "first/a-cat-7.png", "--output-dir", "again"]) == 2
    # Other flags change what it says, and a prompt what it shows.
    model = ["--model", str(tiny_folder)]
    assert main(["sample", "a dog", "--from", "first/a-cat-7.png", "--seed", "8", *model, *FEW]) == 0
    with Image.open("first/a-dog-8.png") as made:
        info = json.loads(made.text["finetune"])["samples"][0]  # type: ignore[attr-defined]
    assert (info["negative"], info["guidance"], info["steps"]) == ("ugly", 3.5, 3)


def test_with_all_that_it_was_made_with(
    tiny_models: dict[str, Path],
    branches: dict[str, Path],
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    peft_lora(tiny_models["sd1"], here / "runs" / "mine", 1)
    picture(1).save("sketch.png")
    picture(2).save("other.png")
    Image.new("L", (32, 32), 255).save("mask.png")
    model = ["--model", str(tiny_models["sd1"])]
    control = ["--controlnet", f"{branches['sd1']}:other.png:0.7"]
    inputs = ["--init", "sketch.png", "--mask", "mask.png"]
    lora = ["--lora", "runs/mine:0.6"]
    flags = ["--seed", "7", "--strength", "0.7", *FEW]
    assert main(["sample", "a cat", *model, *lora, *inputs, *control, *flags]) == 0
    capsys.readouterr()
    assert again(*model, *inputs, *control)  # the LoRA is found by its name
    assert "is not the one" not in capsys.readouterr().out
    for missing, said in (
        ([*control], "from another picture, sketch.png"),
        ([*control, *inputs[:2]], "with a mask, mask.png"),
        ([*inputs], "with a ControlNet (sd1)"),
    ):
        assert main(["sample", "--from", "first/a-cat-7.png", *model, *missing]) == 2
        assert said in capsys.readouterr().err
    (here / "runs").rename("moved")
    assert main(["sample", "--from", "first/a-cat-7.png", *model, *inputs, *control]) == 2
    assert "There is no LoRA called mine" in capsys.readouterr().err
    moved = ["--lora", "moved/mine:0.6"]
    swapped = ["--controlnet", f"{branches['sd1']}:sketch.png:0.7"]
    assert main(["sample", "--from", "first/a-cat-7.png", *model, *inputs, *swapped, *moved]) == 0
    told = capsys.readouterr()
    assert "The picture given with --controlnet is not the one that it was made from." in told.out
    assert "--init is not" not in told.out
    other = ["--init", "other.png", *inputs[2:]]
    assert main(["sample", "--from", "first/a-cat-7.png", *model, *other, *control, *moved]) == 0
    told = capsys.readouterr()
    assert "The picture given with --init is not the one that it was made from." in told.out


def test_a1111s_picture(tiny_models: dict[str, Path], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chunks = PngInfo()
    settings = "Steps: 2, Sampler: Euler, CFG scale: 3, Seed: 5, Size: 32x32, Model: theirs, Eta: 0.3"
    chunks.add_text("parameters", f"a cat\nNegative prompt: ugly\n{settings}")
    picture(1).save("theirs.png", pnginfo=chunks)
    model = str(tiny_models["sd1"])
    assert main(["sample", "--from", "theirs.png", "--model", model, "--output-dir", "first"]) == 0
    told = capsys.readouterr()
    assert "Eta: 0.3" in told.out + told.err and "a model called theirs" in told.out + told.err
    by_hand = ["--negative=ugly", "--steps=2", "--scheduler=euler", "--guidance=3", "--seed=5", "--size=32"]
    assert main(["sample", "a cat", "--model", model, *by_hand, "--output-dir", "again"]) == 0
    one, other = (np.asarray(Image.open(f"{folder}/a-cat-5.png")) for folder in ("first", "again"))
    assert np.array_equal(one, other)


def test_a_name_in_a_picture_is_no_path(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chunks = PngInfo()
    chunks.add_text("parameters", "a cat <lora:../secret>\nSteps: 2, Sampler: Euler")
    picture(1).save("theirs.png", pnginfo=chunks)
    (here.parent / "secret.safetensors").touch()
    assert main(["sample", "--from", "theirs.png"]) == 2
    assert "There is no LoRA called ../secret" in capsys.readouterr().err
