"""Whole runs on tiny random models: what they leave, how they resume, what they refuse."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from finetune.backbones import load_backbone
from finetune.backbones.saving import save_folder
from finetune.cli import main
from finetune.config import ModelSection
from finetune.errors import ConfigError, UserError
from finetune.recipes import RECIPES, Recipe, build, load_recipe
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.place import claimed, state_of
from finetune.recipes.run import run
from tests.conftest import draw_pictures
from tests.tiny import Family

SMALL = ("adapter.rank=2", "training.steps=2", "preview.every=0", "training.log_every=1")
DIFFUSERS = "pytorch_lora_weights.safetensors"
pytestmark = pytest.mark.usefixtures("here")


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


def test_dora_says_where_it_is_not_shown_as_trained(tiny_models: dict[str, Path], pictures: Path) -> None:
    _, said = train(pictures, tiny_models["sd1"], "adapter.dora=true")
    warned = [line for line in said if "A1111 and Forge compute it differently" in line]
    (begun,) = (line for line in said if line.startswith("Training 2 steps"))
    assert len(warned) == 1 and said.index(warned[0]) < said.index(begun)
    assert any(
        "for ComfyUI (A1111, Forge: finetune export RUN --to plain-lora -o FILE)" in line for line in said
    )


@pytest.mark.parametrize(
    ("folder", "name"), [("cat", "cat"), ("cat/.", "cat"), ("what?", "mycat-lora"), (".hidden", "mycat-lora")]
)
def test_files_are_named_after_the_folder_if_its_name_will_do(
    folder: str, name: str, tiny_models: dict[str, Path], pictures: Path
) -> None:
    result, _ = train(pictures, tiny_models["sd1"], f"output.dir={folder}", "training.steps=1")
    assert (result / f"{name}.safetensors").is_file()


def test_the_prompt_to_try_is_a_caption_that_says_something(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = draw_pictures(tmp_path)
    (folder / "0.txt").write_text(" \n")
    (folder / "1.txt").write_text("mycat's red hat")
    _, said = train(folder, tiny_models["sd1"], "training.steps=1")
    quoted = shlex.quote("mycat's red hat")
    assert said[-1].startswith(f"Try it: finetune sample {quoted} --lora runs/")


def test_a_word_is_also_in_a_file_of_its_own(tiny_models: dict[str, Path], pictures: Path) -> None:
    word = ("adapter.placeholder=<toy>", "adapter.initializer=cat", "data.instance_prompt=a photo of <toy>")
    folder, said = train(pictures, tiny_models["sd1"], *word)
    assert set(load_file(folder / "toy.safetensors")) == {"emb_params"}
    assert any("Forge needs the word's own file as well" in line for line in said)
    assert not any("compute it differently" in line for line in said)


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
    assert "Resuming from step 2 of 4." in said
    assert (folder / DIFFUSERS).read_bytes() == whole
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    # A run that is done stays as it is.
    _, said = train(*arguments, resume=True)
    assert said == [f"{folder} is finished; there is nothing to resume. Raise training.steps to continue."]


@pytest.mark.parametrize("cache", ["cache_dir=cache", "cache=false"])
def test_a_run_on_half_precision_weights_resumes_to_the_same_bytes(
    tiny_models: dict[str, Path], pictures: Path, tmp_path: Path, cache: str
) -> None:
    model = tmp_path / "half"
    save_folder(load_backbone(ModelSection(name=str(tiny_models["sdxl"]))), model, torch.float16)
    changes = ("training.steps=4", "training.checkpoint_every=2", "preview.every=2", "preview.steps=2",
               "preview.num=1", "training.precision=bf16", f"data.{cache}")  # fmt: skip
    folder, _ = train(pictures, model, *changes)
    results = [folder / DIFFUSERS, folder / "samples" / "step-000004.png"]
    whole = [file.read_bytes() for file in results]
    unfinished(folder, 2)
    results[1].unlink()
    _, said = train(pictures, model, *changes, resume=True)
    assert "Resuming from step 2 of 4." in said
    assert [file.read_bytes() for file in results] == whole


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
    assert f"{folder} is unfinished; --resume continues it." in said
    with pytest.raises(ConfigError, match="--resume"):
        train(pictures, tiny_models["sd1"], f"output.dir={folder}")


def place(this: Recipe, resume: bool = False) -> Path:
    with claimed(this, resume) as found:
        return found.folder


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
            assert place(this) == folder
        else:
            with pytest.raises(ConfigError):
                place(this)
        if state != "foreign":
            assert place(this, resume=True) == folder


def test_a_run_folder_has_one_owner(here: Path, pictures: Path) -> None:
    with claimed(recipe(pictures, here), resume=False) as first:
        assert first.folder == Path("runs/mycat-lora")
        with claimed(recipe(pictures, here), resume=False) as second:
            assert second.folder == Path("runs/mycat-lora-2")
        for resume in (False, True):
            with (
                pytest.raises(ConfigError, match=f"process {os.getpid()} on"),
                claimed(recipe(pictures, here, f"output.dir={first.folder}"), resume),
            ):
                pass
    assert list(here.iterdir()) == []  # nothing was written


def test_resuming_beside_a_living_run_is_refused(
    here: Path, tiny_models: dict[str, Path], pictures: Path
) -> None:
    folder, _ = train(pictures, tiny_models["sd1"])
    unfinished(folder, 2)
    before = sorted(folder.rglob("*"))
    with (
        claimed(recipe(pictures, here), resume=True),
        pytest.raises(ConfigError, match="using this folder"),
    ):
        train(pictures, tiny_models["sd1"], resume=True)
    assert sorted(folder.rglob("*")) == before


def test_what_a_killed_first_write_leaves_is_no_run(
    here: Path, tiny_models: dict[str, Path], pictures: Path
) -> None:
    folder = Path("runs/mycat-lora")
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    process = subprocess.run(
        [sys.executable, "-c", f"""
import os, sys
from pathlib import Path
from finetune.files import whole_file
with whole_file(Path({str(folder)!r}) / "recipe.yaml") as aside:
    aside.write_text("half")
    os._exit(0)
"""],
        check=True,
    )  # fmt: skip
    assert process.returncode == 0
    assert len(list(folder.glob(".recipe.yaml.*.partial"))) == 1
    again, said = train(pictures, tiny_models["sd1"], resume=True)
    assert again == folder
    assert "There is no unfinished run; this one starts at step 0." in said
    assert not list(here.rglob("*.partial"))
    assert not (folder / ".lock").exists()


def test_a_finished_run_is_carried_on(tiny_models: dict[str, Path], pictures: Path) -> None:
    arguments = (pictures, tiny_models["sd1"], "training.checkpoint_every=2")
    straight, _ = train(*arguments, "training.steps=4", "output.dir=straight", "output.name=mycat-lora")
    folder, _ = train(*arguments)
    first = (folder / DIFFUSERS).read_bytes()
    again, said = train(*arguments, "training.steps=4", resume=True)
    assert again == folder
    assert "Resuming from step 2 of 4." in said
    assert (folder / DIFFUSERS).read_bytes() == (straight / DIFFUSERS).read_bytes()
    assert (folder / "results-step-000002" / DIFFUSERS).read_bytes() == first
    assert load_recipe(folder / "recipe.yaml").training.steps == 4
    with pytest.raises(ConfigError, match=r"finished at 4 steps"):
        train(*arguments, "training.steps=3", resume=True)


def test_a_schedule_over_all_steps_is_not_carried_on(tiny_models: dict[str, Path], pictures: Path) -> None:
    arguments = (pictures, tiny_models["sd1"], "optimizer.schedule=cosine")
    folder, _ = train(*arguments)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError, match="a run with a constant schedule can be extended") as caught:
        train(*arguments, "training.steps=4", resume=True)
    assert "--resume --set" not in str(caught.value.fix)  # it would be refused too
    assert sorted(folder.rglob("*")) == before


def test_a_run_knows_its_model_by_content(
    tmp_path: Path, tiny_models: dict[str, Path], pictures: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_models["sd1"], model)
    folder, _ = train(pictures, model)
    unfinished(folder, 2)
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: 1.2 * value for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match="weights of the model"):
        train(pictures, model, resume=True)


def test_a_refused_resume_names_the_files_that_changed(
    tmp_path: Path, tiny_models: dict[str, Path], pictures: Path
) -> None:
    mycat = tmp_path / "own" / "mycat"
    shutil.copytree(pictures, mycat)
    folder, _ = train(mycat, tiny_models["sd1"])
    unfinished(folder, 2)
    (mycat / "1.txt").write_text("another caption")
    (mycat / "2.png").unlink()
    shutil.copy(mycat / "0.png", mycat / "3.png")
    with pytest.raises(ConfigError, match=r"the caption of 1\.png, 2\.png is gone, 3\.png is new") as caught:
        train(mycat, tiny_models["sd1"], resume=True)
    # The fix is told, and works.
    assert caught.value.fix is not None
    assert "Undo the change" in caught.value.fix
    (mycat / "1.txt").unlink()
    (mycat / "3.png").unlink()
    shutil.copy(pictures / "2.png", mycat / "2.png")
    _, said = train(mycat, tiny_models["sd1"], "training.steps=3", resume=True)
    assert "Resuming from step 2 of 3." in said


def test_the_fix_of_other_settings_works(tiny_models: dict[str, Path], pictures: Path) -> None:
    folder, _ = train(pictures, tiny_models["sd1"], "training.steps=3", "training.checkpoint_every=2")
    whole = (folder / DIFFUSERS).read_bytes()
    unfinished(folder, 2)
    with pytest.raises(ConfigError, match=r"optimizer\.lr") as caught:
        train(pictures, tiny_models["sd1"], "training.steps=3", "optimizer.lr=1e-3", resume=True)
    assert caught.value.fix is not None
    command = caught.value.fix.split("`")[1].split()
    assert command == ["finetune", "run", str(folder), "--resume"]
    assert main(command[1:]) == 0
    assert (folder / DIFFUSERS).read_bytes() == whole


def test_the_fix_of_other_settings_works_for_a_finished_run(
    tiny_models: dict[str, Path], pictures: Path
) -> None:
    folder, _ = train(pictures, tiny_models["sd1"])
    with pytest.raises(ConfigError, match=r"optimizer\.lr") as caught:
        train(pictures, tiny_models["sd1"], "training.steps=3", "optimizer.lr=1e-3", resume=True)
    command = str(caught.value.fix).split("`")[1].split()
    assert main(command[1:]) == 0
    assert load_recipe(folder / "recipe.yaml").training.steps == 3


@pytest.mark.parametrize(
    "changes",
    [
        ["data.instance_dir=missing"],
        ["data.instance_dir=."],
        ["model.name=missing"],
        ["model.name=."],
        ["adapter.targets=[nothing]"],
        ["training.precision=fp16"],
        ["data.variants=4"],
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
    assert caught.value.fix
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("kind", ["lora", "embedding", "controlnet"])
@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_the_seed_of_the_run_is_that_of_the_start(kind: str, tiny_folder: Path, pictures: Path) -> None:
    extra = {"embedding": ["adapter.placeholder=<x>"], "controlnet": ["data.preprocess=grayscale"]}

    def start(seed: int) -> dict[str, torch.Tensor]:
        folder = f"data.{RECIPES[kind].folder_field}"
        changes = [f"training.seed={seed}", *extra.get(kind, [])]
        made = build(kind, [Setting(folder, pictures, "test"), *(parse_set(change) for change in changes)])
        return made.make_adapter(load_backbone(ModelSection(name=str(tiny_folder)))).state()

    one, same, other = start(5), start(5), start(6)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())
