"""Whole runs on pictures of several shapes: what a step learns, and that it resumes to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.config import TrainingSection
from finetune.data import PictureSource, PriorSource, scan_folder
from finetune.errors import ConfigError
from finetune.recipes import build, load_recipe
from finetune.recipes.length import in_steps
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import Run, assemble, run
from finetune.training import RunFolder, in_backward
from tests.battery.cases import SMALL
from tests.data.conftest import painted

SIZES = [(80, 32), (48, 32), (32, 32), (32, 48), (32, 80), (36, 32), (33, 50)]
KINDS = {
    "lora": ("adapter.rank=2", "adapter.dropout=0.2"),
    "full": (),
    "controlnet": ("data.preprocess=grayscale",),
}
CLASS = ("data.class_prompt=a cat", "data.class_dir=classes", "data.num_class_images=3")
FOUR = ("training.batch_size=4", "training.accumulation=1")
pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def shapes(here: Path) -> Path:
    """A folder of seven pictures of five shapes, beside one of three class pictures."""
    folders = {here / "shapes": SIZES, here / "classes": [(32, 32), (32, 48), (80, 32)]}
    for folder, sizes in folders.items():
        folder.mkdir()
        for index, size in enumerate(sizes):
            painted(*size, index).save(folder / f"{index}.png")
    return here / "shapes"


def settings(kind: str, model: Path, shapes: Path, *changes: str) -> list[Setting]:
    where = "data_dir" if kind in ("full", "controlnet") else "instance_dir"
    given = [parse_set(change) for change in (*SMALL, *KINDS[kind], *changes)]
    own = {s.key: s for s in given}.values()
    return [Setting("model.name", str(model), ""), Setting(f"data.{where}", str(shapes), ""), *own]


def made(kind: str, model: Path, shapes: Path, name: str, *changes: str) -> Run:
    this = assemble(build(kind, settings(kind, model, shapes, *changes)), RunFolder(Path(name)))
    this.source.prepare()
    return this


def gradients(this: Run, step: int) -> dict[str, Tensor]:
    """The summed gradient of a step, as the trainer computes it but for the optimizer."""
    trainer = this.trainer
    trainer.model.train()
    found: dict[str, Tensor] = {}

    def instead() -> Tensor:
        found.update({n: p.grad.clone() for n, p in trainer.parameters.items() if p.grad is not None})
        trainer.optimizer.zero_grad()  # so that no step is taken
        return torch.zeros(())

    trainer._clip = instead  # type: ignore[method-assign]
    trainer.step = step
    losses, _ = trainer._step(trainer._batches(step))
    return found | {name: torch.tensor(loss) for name, loss in losses.items()}


def test_a_step_is_the_same_however_it_is_split(shapes: Path, tiny_models: dict[str, Path]) -> None:
    """1 x 4, 2 x 2 and 4 x 1 accumulated; with leftovers, class pictures and dropout."""
    splits = [(4, 1), (2, 2), (1, 4)]
    runs = [
        made("lora", tiny_models["sdxl"], shapes, f"{size}x{times}", *CLASS,
             f"training.batch_size={size}", f"training.accumulation={times}")
        for size, times in splits
    ]  # fmt: skip
    several = 0
    for step in range(3):
        whole, *others = (gradients(this, step) for this in runs)
        several += len(runs[0].trainer._batches(step)) > 1
        assert whole["loss"] > 0 and any(bool(value.any()) for value in whole.values())
        for other in others:
            assert other.keys() == whole.keys()
            for name, value in whole.items():
                torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5, msg=name)
    assert several


def test_the_gradient_is_the_mean_over_rows_of_all_shapes(shapes: Path, tiny_models: dict[str, Path]) -> None:
    this = made("lora", tiny_models["sd1"], shapes, "run", *FOUR, "adapter.dropout=0")
    step = next(s for s in range(4) if len({len(b) for b in this.trainer._batches(s)}) > 1)
    found = gradients(this, step)
    loss = torch.zeros(())
    for number in range(4 * step, 4 * step + 4):  # one by one
        (batch,) = this.source.batches([number])
        loss = loss + this.trainer.objective(this.adapter, batch).sum() / 4
    assert float(found.pop("loss")) == pytest.approx(loss.item(), rel=1e-4)
    expected = torch.autograd.grad(loss, list(this.trainer.parameters.values()), allow_unused=True)
    for (name, _), gradient in zip(this.trainer.parameters.items(), expected, strict=True):
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_five_shapes_train_and_resume_to_the_bit(
    kind: str, shapes: Path, tiny_models: dict[str, Path]
) -> None:
    model = tiny_models["sd1"]
    four = (*FOUR, *CLASS) if kind == "lora" else FOUR
    straight = made(kind, model, shapes, "straight", *four)
    for source in _sources(straight):
        assert len({size for _, size in source.items}) == (5 if source.folder.path == shapes else 3)
        assert source.order.group == 4  # what a step sees
    straight.trainer.run()
    made(kind, model, shapes, "broken", *four, "training.steps=2").trainer.run()
    resumed = made(kind, model, shapes, "broken", *four)
    assert resumed.trainer.resume() and resumed.trainer.step == 2
    resumed.trainer.run()
    states = straight.adapter.state(), resumed.adapter.state()
    for name, tensor in states[0].items():
        assert torch.isfinite(tensor).all() and torch.equal(tensor, states[1][name]), name


def _sources(this: Run) -> list[PictureSource]:
    source = this.source
    return [source.instances, source.classes] if isinstance(source, PriorSource) else [source]


def test_steps_inside_the_backward_pass_see_all_shapes(
    shapes: Path, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_backward, "_AT_ONCE", 0)  # each weight is stepped at once
    after, inside = (
        made("lora", tiny_models["sd1"], shapes, chosen, *FOUR, "adapter.dropout=0",
             "training.max_grad_norm=null", f"optimizer.in_backward={chosen}")
        for chosen in ("false", "true")
    )  # fmt: skip
    assert any(len(after.trainer._batches(step)) > 1 for step in range(4))
    after.trainer.run()
    inside.trainer.run()
    for name, value in after.trainer.parameters.items():
        # Adam turns the rounding of the smallest gradients into steps of up to its rate, 0.01.
        difference = (inside.trainer.parameters[name] - value).detach().abs()
        assert float(difference.mean()) < 1e-4, name


def test_dropout_of_layers_computed_again_inside_the_backward_pass_is_refused(
    shapes: Path, tiny_models: dict[str, Path]
) -> None:
    asked = ("optimizer.in_backward=true", "training.max_grad_norm=null",
             "training.gradient_checkpointing=true")  # fmt: skip
    with pytest.raises(ConfigError, match="pictures of several shapes"):
        build("lora", settings("lora", tiny_models["sd1"], shapes, *asked))
    build("lora", settings("lora", tiny_models["sd1"], shapes, *asked, "data.buckets=false"))


def test_epochs_are_resolved_to_steps(shapes: Path, tiny_models: dict[str, Path]) -> None:
    given = [s for s in settings("lora", tiny_models["sd1"], shapes) if s.key != "training.steps"]
    epochs = parse_set("training.epochs=1")
    said: list[str] = []
    folder = run(build("lora", [*given, epochs]), tell=said.append).folder
    resolved = load_recipe(folder / "recipe.yaml").training
    assert (resolved.steps, resolved.epochs) == (4, None)  # 7 pictures in steps of 2
    assert any("Training 4 steps of 2 pictures, 3.5 steps an epoch" in line for line in said)
    assert any("in 5 shapes: " in line for line in said)
    # The finished run is made longer by asking for more epochs, and is not begun again for as many.
    place = Setting("output.dir", str(folder), "")
    assert not run(build("lora", [*given, epochs, place]), resume=True, tell=said.append).files
    more = run(build("lora", [*given, parse_set("training.epochs=2"), place]), resume=True, tell=said.append)
    assert more.steps == 7


def test_repeats_and_resolutions_count_in_an_epoch(shapes: Path, tiny_models: dict[str, Path]) -> None:
    changes = ("data.extra_resolutions=[64]", "training.epochs=2")
    given = [s for s in settings("lora", tiny_models["sd1"], shapes, *changes) if s.key != "training.steps"]
    recipe = build("lora", given)
    pictures = scan_folder(shapes)
    assert in_steps(recipe, pictures, recipe).training.steps == 14
    source = assemble(recipe, RunFolder(Path("run"))).source
    assert len(source) == 14


def test_a_length_that_is_given_twice_is_refused() -> None:
    (fault,) = TrainingSection(steps=800, epochs=2).faults()
    assert fault.where == "training.epochs"
    assert not [*TrainingSection(epochs=2).faults(), *TrainingSection(steps=3).faults()]


def test_a_control_preview_is_square(shapes: Path, tiny_models: dict[str, Path]) -> None:
    changes = ("training.steps=1", "preview.every=1", "preview.steps=1", "preview.num=2")
    this = made("controlnet", tiny_models["sd1"], shapes, "run", *FOUR, *changes)
    this.trainer.run()
    assert this.folder.sample(1).is_file()
    shutil.rmtree("run")
