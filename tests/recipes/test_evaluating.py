"""Evaluation during training: it changes no weight, survives a resume, and keeps the best checkpoint."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from finetune.cli.main import main
from finetune.errors import ConfigError
from finetune.evaluation.during import Start
from finetune.recipes import build
from finetune.recipes.load import Setting, load_recipe, parse_set
from finetune.recipes.run import run
from finetune.training.run_folder import RunFolder
from tests.battery.cases import Case, recipe

pytestmark = pytest.mark.usefixtures("here")

SHORT = (
    "evaluate.every=2",
    "evaluate.steps=2",
    "evaluate.contexts={hat: [with a red hat, with a blue hat]}",
)
CASES = {
    "lora": ("adapter.text_encoder=true", "training.ema=true"),
    "embedding": ("adapter.placeholder=<mycat>", "data.instance_prompt=a photo of <mycat>"),
    "full": ("evaluate.prompt=a photo of mycat",),
    "dreambooth": ("data.instance_prompt=a photo of mycat", "output.weights=fp32"),
}


def trained(
    kind: str, model: Path, pictures: Path, place: str, *changes: str, resume: bool = False
) -> tuple[RunFolder, str]:
    said: list[str] = []
    own = [c for c in CASES[kind] if SHORT[0] in changes or not c.startswith("evaluate")]
    made = recipe(Case(kind, kind), model, pictures, *own, f"output.dir={place}", *changes)
    return RunFolder(run(made, resume=resume, tell=said.append).folder), "\n".join(said)


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.evaluation.read_text().splitlines()]


def weights(folder: RunFolder, step: int = 4) -> dict[str, torch.Tensor]:
    place = folder.checkpoint(step)
    return {
        f"{name} {key}": value
        for name in ("weights", "average", "optimizer")
        for key, value in load_file(place / f"{name}.safetensors").items()
    }


@pytest.mark.parametrize("kind", CASES)
def test_the_trained_weights_are_the_same_to_the_bit(
    kind: str, tiny_models: dict[str, Path], pictures: Path
) -> None:
    plain, _ = trained(kind, tiny_models["sd1"], pictures, "plain")
    watched, said = trained(kind, tiny_models["sd1"], pictures, "watched", *SHORT)
    before, after = weights(plain), weights(watched)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not plain.evaluation.exists() and not plain.best.exists()
    assert [line["step"] for line in lines(watched)] == [2, 4]
    assert all(f"Step {step}: details" in said for step in (2, 4))


def test_a_resumed_run_has_the_same_evaluations(tiny_models: dict[str, Path], pictures: Path) -> None:
    folder, _ = trained("lora", tiny_models["sd1"], pictures, "one", *SHORT)
    before, final = folder.evaluation.read_bytes(), weights(folder)
    for step in (3, 4):
        shutil.rmtree(folder.checkpoint(step))
    (folder.path / "pytorch_lora_weights.safetensors").unlink()
    with folder.evaluation.open("a") as file:
        file.write('{"step": 4, "lik')  # a kill leaves half a line
    trained("lora", tiny_models["sd1"], pictures, "one", *SHORT, resume=True)
    assert folder.evaluation.read_bytes() == before
    assert all(torch.equal(value, final[name]) for name, value in weights(folder).items())


def scored(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """The evaluations say these scores, one after another."""
    left = list(scores)
    figures = {"details": 1.0, "prompt_hat": 1.0, "class_changed": 0.0, "copies": 0.0}
    monkeypatch.setattr(Start, "of", lambda *models: Start.__new__(Start))
    monkeypatch.setattr(Start, "look", lambda self, *models: figures | {"score": left.pop(0)})


EACH = (*SHORT, "evaluate.every=1", "training.keep_checkpoints=1")


def test_the_best_checkpoint_is_kept_beside_the_last(
    tiny_models: dict[str, Path], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, 0.1, 0.9, 0.5, 0.4)
    changes = (*EACH, "training.checkpoint_every=4")
    folder, said = trained("lora", tiny_models["sd1"], pictures, "one", *changes)
    assert [place.name for place in folder.checkpoints()] == ["step-000002", "step-000004"]
    assert json.loads(folder.best.read_text()) == {"step": 2, "score": 0.9}
    command = shlex.split(said.partition("For those of step 2: finetune ")[2].splitlines()[0])
    assert main(command) == 0
    with safe_open("best.safetensors", "pt") as file:
        assert file.metadata()["finetune.step"] == "2"
    every, _ = trained("lora", tiny_models["sd1"], pictures, "two")
    one, two = weights(folder, 2), weights(every, 2)
    assert all(torch.equal(one[name], two[name]) for name in two)

    scored(monkeypatch, 0.1, 0.9, 0.5, 0.4)
    none, said = trained("lora", tiny_models["sd1"], pictures, "none", *changes, "evaluate.keep_best=false")
    assert [place.name for place in none.checkpoints()] == ["step-000004"] and not none.best.exists()
    assert "finetune export" not in said


def test_it_stops_where_it_has_overfit(
    tiny_models: dict[str, Path], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = (*EACH, "training.steps=6", "training.checkpoint_every=6", "evaluate.stop=true")
    scored(monkeypatch, 0.9, 0.5, 0.5, 0.5)
    folder, said = trained("lora", tiny_models["sd1"], pictures, "one", *changes)
    assert "Overfitting since step 1:" in said and "stopped after step 4 of 6" in said
    assert [place.name for place in folder.checkpoints()] == ["step-000001", "step-000004"]
    whole, _ = trained("lora", tiny_models["sd1"], pictures, "two")
    one, two = weights(folder), weights(whole)
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert load_recipe(folder.recipe).training.steps == 6


def test_what_cannot_be_evaluated_is_refused(tiny_models: dict[str, Path], pictures: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.every"):
        build("controlnet", [Setting("data.data_dir", "x", ""), parse_set("evaluate.every=1")])
    with pytest.raises(ConfigError, match=r"no effect without evaluate\.every"):
        build("lora", [Setting("data.instance_dir", "x", ""), parse_set("evaluate.stop=true")])
    shutil.copytree(pictures, "captioned")
    Path("captioned/0.txt").write_text("mycat on a chair")
    made = recipe(Case("full", "full"), tiny_models["sd1"], Path("captioned"), "output.dir=one", *SHORT)
    with pytest.raises(ConfigError, match=r"evaluate\.prompt"):
        run(made, tell=lambda line: None)
    assert not Path("one").exists()
