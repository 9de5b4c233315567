"""The commands from pictures to pictures, as a user types them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from finetune.cli import main
from finetune.config import ModelSection
from finetune.formats.read import DIFFUSERS_FILE
from finetune.recipes.load import build_model, parse_set
from finetune.recipes.model import choose_model

Output = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("here")


def test_train_sample_export(
    here: Path, tiny_models: dict[str, Path], pictures: Path, capsys: Output
) -> None:
    model = str(tiny_models["sd1"])
    small = ["--steps", "2", "--rank", "2", "--set", "preview.every=0"]
    assert main(["lora", "--instance-dir", str(pictures), "--model", model, *small]) == 0
    said = capsys.readouterr().out
    assert "runs/mycat-lora" in said
    assert "broken.png" in said

    # The model need not be named again: the run folder says it.
    few = ["--steps", "2", "--num", "2"]
    assert main(["sample", "a cat", "a dog", "--lora", "runs/mycat-lora:0.5", *few]) == 0
    assert f"Model: {model}, because runs/mycat-lora was made for it." in capsys.readouterr().out
    names = {path.name for path in (here / "samples").iterdir()}
    assert names == {"a-cat-0.png", "a-cat-1.png", "a-dog-0.png", "a-dog-1.png", "grid.png"}
    with Image.open("samples/a-dog-1.png") as picture:
        assert picture.text["parameters"].startswith("a dog <lora:mycat-lora:0.5>")  # type: ignore[attr-defined]

    assert main(["export", "runs/mycat-lora", "--to", "merged", "-o", "merged"]) == 0
    assert main(["sample", "a cat", "--model", "merged", "--steps", "1", "--output-dir", "more"]) == 0
    assert (here / "more" / "a-cat-0.png").is_file()
    assert main(["export", "runs/mycat-lora", "--to", "merged", "-o", "merged"]) == 2
    assert main(["export", "runs/mycat-lora", "--to", "plain-lora", "-o", "plain.safetensors"]) == 0
    assert "differs from the original by 0.00%" in capsys.readouterr().out
    assert main(["sample", "a cat", "--lora", "plain.safetensors", "--model", model, "--steps", "1"]) == 0


def test_a_pickled_model_is_used_on_the_users_word(
    here: Path, tiny_models: dict[str, Path], pictures: Path, capsys: Output
) -> None:
    shutil.copytree(tiny_models["sd1"], "old")
    file = here / "old" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    allowed = ["--set", "model.allow_pickle=true"]
    small = ["--steps", "1", "--rank", "2", "--set", "preview.every=0"]
    assert main(["lora", "--instance-dir", str(pictures), "--model", "old", *small, *allowed]) == 0
    for command in (
        ["sample", "a cat", "--steps", "1", "--model", "old"],
        # A file's word, here the run's own recipe, is not the user's.
        ["sample", "a cat", "--steps", "1", "--lora", "runs/mycat-lora"],
        ["export", "runs/mycat-lora", "--to", "merged", "-o", "merged"],
    ):
        capsys.readouterr()
        assert main(command) == 2
        assert "allow this one with --set model.allow_pickle=true" in capsys.readouterr().err
        assert main([*command, *allowed]) == 0
        assert "Model: old" in capsys.readouterr().out
    assert (here / "merged" / "model_index.json").is_file()


def test_other_settings_of_a_model_come_from_what_was_made_for_it(here: Path) -> None:
    (here / "run").mkdir()
    (here / "run" / "recipe.yaml").write_text("model: {name: a/b, revision: old, prediction_type: epsilon}")
    (here / "run" / DIFFUSERS_FILE).touch()

    def chosen(*changes: str) -> ModelSection:
        return choose_model(build_model(map(parse_set, changes)), [here / "run"])[0]

    assert chosen("model.revision=new") == ModelSection(name="a/b", revision="new", prediction_type="epsilon")
    assert chosen("model.name=c/d") == ModelSection(name="c/d")


def test_run_resumes_the_folder_it_is_given(
    here: Path, tiny_models: dict[str, Path], pictures: Path, capsys: Output
) -> None:
    (here / "mine.yaml").write_text(
        f"kind: lora\nmodel: {{name: {tiny_models['sd1']}}}\ndata: {{instance_dir: {pictures}}}\n"
        "adapter: {rank: 2}\ntraining: {steps: 4, checkpoint_every: 2}\npreview: {every: 0}\n"
    )
    assert main(["run", "mine.yaml", "--output-dir", "out"]) == 0
    result = here / "out" / "pytorch_lora_weights.safetensors"
    whole = result.read_bytes()
    result.unlink()
    shutil.rmtree(here / "out" / "checkpoints" / "step-000004")
    assert main(["run", "out"]) == 0, "a new run of the same recipe"
    assert (here / "runs" / "out" / result.name).read_bytes() == whole
    assert main(["run", "out", "--resume"]) == 0
    assert "Resuming from step 2 of 4." in capsys.readouterr().out
    assert result.read_bytes() == whole


def test_an_interrupt_ends_with_130_and_a_checkpoint(
    here: Path, tiny_models: dict[str, Path], pictures: Path
) -> None:
    # The signal is sent by the process to itself after the third step, so that no timing is involved.
    code = (
        "import os, signal, sys\n"
        "from finetune.cli import main\n"
        "from finetune.training import Trainer\n"
        "step = Trainer._step\n"
        "def stepping(self, batches):\n"
        "    done = step(self, batches)\n"
        "    if self.step == 3: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return done\n"
        "Trainer._step = stepping\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = ["lora", "--instance-dir", str(pictures), "--model", str(tiny_models["sd1"]), "--steps", "9"]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{code}", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert (here / "runs" / "mycat-lora" / "checkpoints" / "step-000003").is_dir()


def test_a_vae_of_ones_choice_is_told(
    here: Path, tiny_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(tiny_models["sd1"]), "--vae", str(tiny_models["sd2"])]
    assert main(["sample", "a cat", "--steps", "1", "--size", "32", *model]) == 0
    told = f"The VAE is that of {tiny_models['sd2']} (model.vae)."
    output = capsys.readouterr()
    assert told in (output.out + output.err).replace("\n", " ")
    save_file({"lora_unet_mid_block_resnets_0_norm1.w_norm": torch.ones(16)}, here / "x.safetensors")
    assert main(["export", "x.safetensors", "--to", "merged", "-o", "merged", *model]) == 0
    output = capsys.readouterr()
    assert told in (output.out + output.err).replace("\n", " ")
    own, made = (
        load_file(place / "vae" / "diffusion_pytorch_model.safetensors")
        for place in (tiny_models["sd2"], here / "merged")
    )
    assert all(torch.equal(made[name], weight) for name, weight in own.items())
