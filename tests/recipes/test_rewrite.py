"""Results from checkpoints: equal to what a run exports that stopped there, or kept no average."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from finetune.cli import main
from finetune.recipes import RECIPES, build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import run
from tests.battery.cases import SMALL

Output = pytest.CaptureFixture[str]
Train = Callable[..., Path]
FORMS = {
    "lora": "kohya",
    "distill": "kohya",
    "embedding": "embedding",
    "controlnet": "controlnet",
    "full": "merged",
}
OWN = {
    "lora": ("adapter.rank=2", "adapter.text_encoder=true"),
    "distill": ("adapter.rank=2",),
    "controlnet": ("data.preprocess=grayscale", "output.weights=fp32"),
    "full": ("output.weights=fp32",),
}
pytestmark = pytest.mark.usefixtures("here")
one_family = pytest.mark.parametrize("family", ["sd1"])


@pytest.fixture
def train(tiny_folder: Path, pictures: Path) -> Train:
    def trained(kind: str, place: str, *changes: str) -> Path:
        given = [*SMALL, "training.steps=2", *OWN.get(kind, ()), *changes]
        folder = Setting(f"data.{RECIPES[kind].folder_field}", pictures, "x")
        settings = [Setting("model.name", str(tiny_folder), "x"), folder, Setting("output.dir", place, "x")]
        settings += {setting.key: setting for setting in map(parse_set, given)}.values()
        return run(build(kind, settings), tell=lambda line: None).folder

    return trained


def exported(source: Path, form: str, out: str, *flags: str) -> dict[str, Tensor]:
    target = Path(out + ("" if form in ("merged", "controlnet") else ".safetensors"))
    assert main(["export", str(source), "--to", form, "-o", str(target), *flags]) == 0
    files = [target] if target.is_file() else sorted(target.rglob("*.safetensors"))
    return {f"{f.relative_to(target)}/{k}": t for f in files for k, t in load_file(f).items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys() and one
    return all(one[key].equal(other[key]) for key in one)


@one_family
@pytest.mark.parametrize("kind", FORMS)
def test_with_and_without_the_average(
    kind: str, family: str, train: Train, tiny_folder: Path, capsys: Output
) -> None:
    form, base = FORMS[kind], ("--model", str(tiny_folder))  # as if it had moved since
    plain = exported(train(kind, "a/mycat"), form, "plain")
    both = train(kind, "b/mycat", "training.ema=true", "training.ema_decay=0.15")
    average = exported(both, form, "average")
    assert not equal(plain, average)
    capsys.readouterr()
    assert equal(exported(both, form, "new/again", "--ema", *base), average)
    assert "The averaged weights of b/mycat after step 2." in capsys.readouterr().out
    assert equal(exported(both, form, "raw", "--no-ema"), plain)
    assert not list(Path().rglob(".*.partial"))


@one_family
def test_an_earlier_checkpoint(family: str, train: Train) -> None:
    one = exported(train("lora", "a/mycat", "training.steps=1"), "kohya", "one")
    folder = train("lora", "b/mycat")
    assert equal(exported(folder / "checkpoints" / "step-000001", "kohya", "earlier"), one)
    with safe_open("earlier.safetensors", "pt") as earlier, safe_open("one.safetensors", "pt") as first:
        mine, theirs = earlier.metadata(), first.metadata()
    differ = {key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key)}
    assert differ == {"ss_max_train_steps", "ss_num_epochs", "finetune.recipe"}


@one_family
def test_what_cannot_be_had_is_refused(family: str, train: Train, capsys: Output) -> None:
    folder = train("lora", "a/mycat")
    file = next(folder.glob("mycat*.safetensors"))

    def refused(source: Path, *flags: str) -> str:
        assert main(["export", str(source), "--to", "kohya", "-o", "x.safetensors", *flags]) == 2
        assert not Path("x.safetensors").exists()
        return capsys.readouterr().err

    assert "kept no average" in refused(folder, "--ema")
    assert "in the checkpoints of a run" in refused(file, "--no-ema")
    (folder / "checkpoints" / "step-000002" / "weights.safetensors").write_bytes(b"")
    assert "damaged" in refused(folder / "checkpoints" / "step-000002")
    for checkpoint in (folder / "checkpoints").iterdir():
        checkpoint.rename(folder / checkpoint.name)
    assert "no checkpoint" in refused(folder, "--no-ema")
