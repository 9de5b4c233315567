"""A run's results once more from one of its checkpoints: an earlier step, or with or without its average."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.backbones import Backbone, load_stored
from finetune.config import ModelSection
from finetune.config.forms import Kind
from finetune.data.record import read_record
from finetune.diffusion.schedule import scheduler_for
from finetune.errors import ConfigError
from finetune.export import Made, what_is
from finetune.files import partial_name
from finetune.formats import DataFacts, run_metadata
from finetune.recipes.base import Recipe
from finetune.recipes.load import load_recipe
from finetune.recipes.model import resolved
from finetune.recipes.resume import DATA
from finetune.training.checkpoint import Checkpoint, read_checkpoint
from finetune.training.resume import newest_intact
from finetune.training.run_folder import RunFolder

KINDS: dict[str, Kind] = {
    "lora": "lora",
    "distill": "lora",
    "embedding": "embedding",
    "controlnet": "controlnet",
    "dreambooth": "model",
    "full": "model",
}
"""What the recipes leave; the others cannot be written again."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint of a run, and what of it is wanted.

    Attributes:
        run: The run folder.
        recipe: Its recipe.
        checkpoint: The state after some step.
        average: Whether the averaged weights are meant.
    """

    run: Path
    recipe: Recipe
    checkpoint: Checkpoint
    average: bool

    @property
    def made(self) -> Made:
        """What comes out of it."""
        return Made(KINDS[self.recipe.kind], self.run)

    def model(self, given: ModelSection) -> ModelSection:
        """The model that was trained, with what the user set of it, and its weights as they are."""
        # Whether a pickle may be loaded is for the user of this machine to say (P6), not for a folder.
        said = {"allow_pickle": False, "quantize": "none"} | given.model_dump(exclude_unset=True)
        return ModelSection(**(self.recipe.model.model_dump() | said))

    @property
    def sentence(self) -> str:
        """What it is, for the user."""
        which = "averaged weights" if self.average else "weights"
        return f"The {which} of {self.run} after step {self.checkpoint.step}."


def find_saved(path: Path, average: bool | None) -> Saved | None:
    """What is to be written again; None if the results in the run folder, or a file, are meant themselves.

    Args:
        path: A run folder, one of its checkpoints, or anything else.
        average: Whether the averaged weights are asked for; None for what the run itself exports.

    Raises:
        ConfigError: There is no checkpoint or no average, or the recipe's results cannot be written again.
        WeightsError: The checkpoint is damaged.
    """
    inside = (path / "state.json").is_file()
    if not inside and average is None:
        return None
    folder = RunFolder(path.resolve().parent.parent if inside else path)
    if not folder.recipe.is_file():
        raise ConfigError(
            "The averaged weights, and those without average, are in the checkpoints of a run.",
            where=str(path),
            fix="Give a run folder, or leave --ema and --no-ema out.",
        )
    recipe = load_recipe(folder.recipe)
    if recipe.kind not in KINDS:
        fix = "Leave --ema and --no-ema out, and give the run folder."
        raise ConfigError(f"A {recipe.kind} run cannot be written again.", where=str(path), fix=fix)
    checkpoint = read_checkpoint(path) if inside else newest_intact(folder)[0]
    if checkpoint is None:
        fix = "Leave --ema and --no-ema out: the results are as the run wrote them."
        raise ConfigError("There is no checkpoint in this run folder.", where=str(path), fix=fix)
    if average and not checkpoint.average:
        raise ConfigError(
            "This run has kept no average of its weights.",
            where=str(folder.recipe),
            fix="Leave --ema out; training.ema=true keeps one.",
        )
    return Saved(folder.path, recipe, checkpoint, bool(checkpoint.average) if average is None else average)


@contextmanager
def written_again(saved: Saved, given: ModelSection, beside: Path) -> Iterator[Made]:
    """Inside, the results of a checkpoint are in a temporary folder, as the run itself would write them.

    Args:
        saved: What is meant.
        given: What the user set of the model; the rest is the run's.
        beside: The folder to make it in, which need not exist; there must be room for them.

    Yields:
        The results; whole models and ControlNets in fp32.

    Raises:
        UserError: The model cannot be found or read, or is not the one that was trained.
    """
    recipe = _in_fp32(saved.recipe)
    held = {"quantize": recipe.model.quantize}  # as it was trained, so that the files are the run's
    section, _ = resolved(saved.model(given).model_copy(update=held))
    recipe = recipe.model_copy(update={"model": section})
    backbone = load_stored(section)
    values: Mapping[str, Tensor] = saved.checkpoint.average if saved.average else saved.checkpoint.weights
    _put(values, backbone)
    adapter = recipe.make_adapter(backbone)
    trained = adapter.trained()
    if {n: v.shape for n, v in trained.items()} != {n: v.shape for n, v in values.items()}:
        raise ConfigError(
            "The checkpoint does not fit the model.",
            where=str(saved.run),
            fix="Use the model and the recipe.yaml that the run was trained with.",
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            if parameter.data_ptr() != values[name].data_ptr():
                parameter.copy_(values[name])
    adapter.eval()
    backbone.scheduler = scheduler_for(backbone.scheduler, recipe.objective)
    place = partial_name(beside / "checkpoint")  # what a kill leaves of it is removed by the next export
    place.mkdir()
    try:
        with torch.no_grad():
            about = _metadata(saved, recipe, backbone)
            recipe.write_results(adapter, backbone, place, recipe.run_name, about)
        yield what_is(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _put(values: Mapping[str, Tensor], backbone: Backbone) -> None:
    """Puts what a checkpoint has of the model's own weights in their place, as it is mapped from its file.

    So a whole model is not held beside the one that it was trained from. Nothing is done for adapters.
    """
    own = {
        f"{root}.{name}": parameter
        for root, module in backbone.module_roots().items()
        for name, parameter in module.named_parameters()
    }
    for name, value in values.items():
        if name in own and own[name].shape == value.shape:
            own[name].data = value


def _in_fp32(recipe: Recipe) -> Recipe:
    if "weights" not in type(recipe.output).model_fields:
        return recipe
    return recipe.model_copy(update={"output": recipe.output.model_copy(update={"weights": "fp32"})})


def _metadata(saved: Saved, recipe: Recipe, backbone: Backbone) -> dict[str, str]:
    entries = read_record(RunFolder(saved.run).pictures) or ()
    captions = [line for entry in entries for line in entry.get("caption", "").split("\n")]
    names = ", ".join(folder.name for folder in recipe.folders)
    identity: Mapping[str, Any] = saved.checkpoint.run
    data = DataFacts(names, str(identity.get(DATA, "")), captions or [""])
    return run_metadata(recipe.public(), backbone, data, name=recipe.run_name, step=saved.checkpoint.step)
