"""Whole runs on tiny random models: what they leave, how they resume, what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from finetune.errors import ConfigError, UserError
from finetune.recipes import Recipe, build, load_recipe
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.place import choose_place, state_of
from finetune.recipes.run import run
from tests.tiny import Family

SMALL = ("adapter.rank=2", "training.steps=2", "preview.every=0", "training.log_every=1")
DIFFUSERS = "pytorch_lora_weights.safetensors"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs go below an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(pictures: Path, model: Path, *changes: str) -> Recipe:
    settings = [
        Setting("data.instance_dir", pictures, "--instance-dir"),
        Setting("model.name", str(model), "--model"),
    ]
    return build("lora", [*settings, *(parse_set(change) for change in (*SMALL, *changes))])


def train(*args: Any, resume: bool = False) -> tuple[Path, list[str]]:
    said: list[str] = []
    result = run(recipe(*args), resume=resume, tell=said.append)
    return result.folder, said


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata())


def test_a_run_leaves_what_the_design_says(family: Family, tiny_folder: Path, pictures: Path) -> None:
    folder, said = train(
        pictures,
        tiny_folder,
        "preview.every=1",
        "preview.steps=2",
        "preview.num=1",
        "adapter.text_encoder=true",
    )
    assert folder == Path("runs/mycat-lora")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found >= {
        "recipe.yaml",
        "metrics.jsonl",
        "mycat-lora.safetensors",
        DIFFUSERS,
        "checkpoints/step-000002/state.json",
        "samples/step-000001.png",
        "samples/step-000002.png",
    }
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]
    text = "\n".join(said)
    for words in ("3 pictures", "broken.png", "a photo of mycat", "Try it: finetune sample"):
        assert words in text
    for name in ("mycat-lora.safetensors", DIFFUSERS):
        told = metadata(folder / name)
        assert told["ss_steps"] == told["finetune.step"] == "2"
        assert json.loads(told["finetune.recipe"])["data"]["instance_dir"] == "mycat"
    resolved = load_recipe(folder / "recipe.yaml")
    # The preset filled in what was not set, and nothing else.
    assert resolved.optimizer.lr == 1e-4
    assert resolved.model_dump()["adapter"] == {**resolved.model_dump()["adapter"], "rank": 2, "alpha": 16}
    assert resolved.data.resolution == 32
    assert resolved.training.precision == ("bf16" if torch.cuda.is_available() else "fp32")


def test_the_written_recipe_gives_the_same_bytes_in_a_new_folder(
    tiny_models: dict[str, Path], pictures: Path
) -> None:
    first, _ = train(pictures, tiny_models["sd1"])
    second = run(load_recipe(first / "recipe.yaml"), tell=lambda line: None).folder
    assert second == Path("runs/mycat-lora-2")
    for name in ("mycat-lora.safetensors", DIFFUSERS):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def unfinished(folder: Path, step: int) -> None:
    """Makes a finished run look as if it had been killed after a checkpoint."""
    for file in folder.glob("*.safetensors"):
        file.unlink()
    for checkpoint in (folder / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)


def test_a_killed_run_resumes_to_the_same_bytes(tiny_models: dict[str, Path], pictures: Path) -> None:
    arguments = (
        pictures,
        tiny_models["sd2"],
        "training.steps=4",
        "training.checkpoint_every=2",
        "training.ema=true",
    )
    folder, _ = train(*arguments)
    whole = (folder / DIFFUSERS).read_bytes()
    unfinished(folder, 2)
    again, said = train(*arguments, resume=True)
    assert again == folder
    assert "Going on after step 2 of 4." in said
    assert (folder / DIFFUSERS).read_bytes() == whole
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    # A run that is done stays as it is.
    _, said = train(*arguments, resume=True)
    assert said == [f"{folder} is finished; there is nothing to resume."]


def test_resuming_with_other_settings_is_refused(tiny_models: dict[str, Path], pictures: Path) -> None:
    folder, _ = train(pictures, tiny_models["sd1"])
    unfinished(folder, 2)
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        train(pictures, tiny_models["sd1"], "optimizer.lr=1e-3", resume=True)
    # What changes nothing of the result may differ, and a constant rate may go on for longer.
    train(pictures, tiny_models["sd1"], "training.log_every=7", "training.steps=3", resume=True)
    assert (folder / "checkpoints" / "step-000003").is_dir()


def test_an_unfinished_run_is_told_and_left_alone(tiny_models: dict[str, Path], pictures: Path) -> None:
    folder, _ = train(pictures, tiny_models["sd1"])
    unfinished(folder, 2)
    other, said = train(pictures, tiny_models["sd1"])
    assert other == Path("runs/mycat-lora-2")
    assert f"{folder} is unfinished; --resume goes on with it." in said
    with pytest.raises(ConfigError, match="--resume"):
        train(pictures, tiny_models["sd1"], f"output.dir={folder}")


def test_where_a_run_goes(tmp_path: Path, pictures: Path) -> None:
    for name in ("free", "foreign", "finished", "unfinished"):
        (tmp_path / name).mkdir()
    (tmp_path / "foreign" / "letter.txt").touch()
    for name in ("finished", "unfinished"):
        (tmp_path / name / "recipe.yaml").touch()
    (tmp_path / "finished" / DIFFUSERS).touch()
    (tmp_path / "file").touch()
    expected = {"none": "free", "free": "free", "file": "foreign"}
    for name in ("none", "free", "file", "foreign", "finished", "unfinished"):
        folder = tmp_path / name
        state = state_of(folder, DIFFUSERS)
        assert state == expected.get(name, name)
        this = recipe(pictures, tmp_path, f"output.dir={folder}")
        if state == "free":
            assert choose_place(this, resume=False).folder == folder
        else:
            with pytest.raises(ConfigError):
                choose_place(this, resume=False)
        if state != "foreign":
            assert choose_place(this, resume=True).folder == folder


@pytest.mark.parametrize(
    "changes",
    [
        ["data.instance_dir=missing"],
        ["data.instance_dir=."],
        ["model.name=missing"],
        ["model.name=."],
        ["adapter.targets=[nothing]"],
        ["training.precision=fp16"],
        ["data.crop=random"],
        ["data.cache=false", "data.cache_dir=cache"],
        ["optimizer.warmup_steps=9"],
    ],
    ids=" ".join,
)
def test_bad_input_leaves_nothing_behind(
    here: Path, tiny_models: dict[str, Path], pictures: Path, changes: list[str]
) -> None:
    if changes == ["training.precision=fp16"] and torch.cuda.is_available():
        pytest.skip("fp16 can be had here")
    with pytest.raises(UserError) as caught:
        train(pictures, tiny_models["sd1"], *changes)
    assert caught.value.mend
    assert list(here.iterdir()) == []
