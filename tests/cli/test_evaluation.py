"""`finetune eval`: figures that repeat, and errors before anything long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from finetune.cli import main
from finetune.recipes.load import RECIPES, Setting, build, parse_set
from finetune.recipes.run import run
from tests.battery.cases import SMALL

Output = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("here")
FEW = [
    "--set", "evaluation.num=1", "--set", "evaluation.steps=1", "--set", 'evaluation.unrelated=["a dog"]',
    "--set", 'evaluation.contexts={scene: [on snow, at night]}',
]  # fmt: skip


@pytest.fixture(scope="module")
def lora(tiny_models: dict[str, Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, with a class prompt to preserve and a checkpoint of each step."""
    return trained("lora", tiny_models["sd1"], pictures, tmp_path_factory.mktemp("runs") / "lora")


def trained(kind: str, model: Path, pictures: Path, place: Path) -> Path:
    given = [*SMALL, "training.steps=2", *(("adapter.rank=2",) if kind == "lora" else ())]
    given += ['data.preserve=["a cat"]', "data.preserve_share=0.1"] if kind == "lora" else []
    settings = {one.key: one for one in map(parse_set, given)}
    folder = Setting(f"data.{RECIPES[kind].folder_field}", pictures, "x")
    fixed = [Setting("model.name", str(model), "x"), folder, Setting("output.dir", place, "x")]
    return run(build(kind, [*fixed, *settings.values()]), tell=lambda line: None).folder


def test_the_same_figures_each_time_as_json_and_as_a_table(lora: Path, capsys: Output) -> None:
    assert main(["eval", str(lora), "--json", "-o", "one", *FEW]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads(Path("one/eval.json").read_text(encoding="utf-8")) == found
    assert set(found) == {
        "result", "subject", "prompt", "class", "unrelated", "memorization", "loss", "verdict",
    }  # fmt: skip
    assert Image.open("one/eval.png").width > 1000

    assert main(["eval", str(lora), "-o", "one", *FEW]) == 2  # nothing is overwritten
    assert "already" in capsys.readouterr().err
    assert main(["eval", str(lora), "-o", "two", *FEW]) == 0
    shown = capsys.readouterr().out
    for file in ("eval.json", "eval.png"):
        assert Path("one", file).read_bytes() == Path("two", file).read_bytes()
    assert '"a photo of mycat …" is like the training pictures' in shown and '"a cat …"' in shown
    assert found["verdict"][1:] in shown


def test_a_lora_without_weight_changes_nothing(lora: Path, capsys: Output) -> None:
    found = {}
    for weight in ("0", "50"):
        assert main(["eval", str(lora), "--json", "--weight", weight, *FEW]) == 0
        found[weight] = json.loads(capsys.readouterr().out)
    for key in ("class", "unrelated"):
        assert found["0"][key]["changed"] == 0 < found["50"][key]["changed"]
        assert found["0"][key]["base"] == found["0"][key]["trained"]
    assert found["0"]["class"]["frechet"] == 0 and found["0"]["class"]["likeness"] == pytest.approx(
        0, abs=0.5
    )


def test_checkpoints_and_files(lora: Path, pictures: Path, capsys: Output) -> None:
    last = lora / "checkpoints" / "step-000002"
    shown = []
    for where in (last, lora / "pytorch_lora_weights.safetensors"):
        flags = [] if where == last else ["--instance-dir", str(pictures), "--class-prompt", "a cat"]
        assert main(["eval", str(where), "--json", *flags, *FEW]) == 0
        shown.append(json.loads(capsys.readouterr().out))
    # The file is written in fp16, a checkpoint is in fp32.
    assert shown[0]["class"]["changed"] == pytest.approx(shown[1]["class"]["changed"], rel=0.05)


@pytest.mark.parametrize(("kind", "family"), [("dreambooth", "sd1"), ("embedding", "sdxl")])
def test_other_results_are_measured_against_the_model_they_were_trained_from(
    kind: str, family: str, tiny_models: dict[str, Path], pictures: Path, tmp_path: Path, capsys: Output
) -> None:
    made = trained(kind, tiny_models[family], pictures, tmp_path / "runs" / kind)
    assert main(["eval", str(made), "--json", *FEW]) == 0
    found = json.loads(capsys.readouterr().out)
    # A new word changes nothing where it is not said.
    assert (found["class"]["changed"] > 0) == (kind != "embedding")
    assert found["loss"]["training"]["changed"] > 0
    assert main(["eval", str(made), "--weight", "0.5", *FEW]) == 2
    assert "Only a LoRA has a weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "There is no such file or folder"),
        (["RUN", "--set", "evaluation.nun=2"], "evaluation.nun is not a setting"),
        (["RUN", "--set", "evaluation.num=0"], "evaluation.num"),
        (["RUN", "--set", "evaluation.contexts={hat: [red]}"], "evaluation.contexts"),
        (["RUN", "--instance-dir", "nowhere"], "nowhere"),
        (["FILE"], "--instance-dir"),
    ],
)
def test_errors(arguments: list[str], said: str, lora: Path, capsys: Output) -> None:
    alone = Path("alone.safetensors")
    alone.write_bytes((lora / "pytorch_lora_weights.safetensors").read_bytes())
    names = {"RUN": str(lora), "FILE": str(alone)}
    assert main(["eval", *(names.get(one, one) for one in arguments)]) == 2
    assert said in capsys.readouterr().err
