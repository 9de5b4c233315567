"""Carries a recipe out: validate everything, load, train, write the results, say what was done."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from finetune.adapters import Adapter
from finetune.backbones import Backbone, load_backbone
from finetune.backbones.precision import PRECISIONS, best_device, dtype_on, precision_name
from finetune.data import PictureSource, check_options, scan_folder
from finetune.diffusion.objective import Objective
from finetune.formats import DataFacts, run_metadata
from finetune.recipes.base import Recipe, flatten
from finetune.recipes.faults import raise_faults
from finetune.recipes.model import resolved
from finetune.recipes.place import choose_place
from finetune.recipes.presets import with_preset
from finetune.sampling.preview import preview
from finetune.sampling.sampler import Sampler
from finetune.training import RunFolder, Trainer

Tell = Callable[[str], None]
Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]

# What may differ when a run is resumed, since it changes nothing of the result.
_FREE = ("preview.", "output.", "data.cache", "training.log_every", "training.tensorboard",
         "training.checkpoint_every", "training.keep_checkpoints")  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a run left.

    Attributes:
        folder: The run folder.
        files: The exported files, each with a line that says what it is for.
        steps: Optimizer steps of the whole run.
        seconds: How long this part of it took, from loading to export.
    """

    folder: Path
    files: Mapping[Path, str]
    steps: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """All parts of a run, put together and checked; nothing has been written yet."""

    recipe: Recipe
    backbone: Backbone
    adapter: Adapter
    source: PictureSource
    trainer: Trainer[Any]
    folder: RunFolder


@contextmanager
def no_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Shows nothing."""
    yield lambda done, total: None


def _silent(line: str) -> None:
    """Tells nothing: only the main process talks."""


def run(
    recipe: Recipe, *, resume: bool = False, tell: Tell = print, progress: Progress = no_progress
) -> Result:
    """Trains what `recipe` describes and writes the run folder.

    Args:
        recipe: The settings; what is not set gets the preset of the model.
        resume: Go on with an unfinished run of this recipe.
        tell: Called with each line for the user.
        progress: Gives, for a label, a context with what to call while long work goes on.

    Raises:
        UserError: Something is wrong with the input; nothing was written.
        NonFiniteLoss: The loss became NaN or infinite.
        Interrupted: The user stopped the run; a checkpoint was written.
    """
    started = time.monotonic()
    # Without a GPU, accelerate must be told so, or each process takes itself for the only one.
    if not PartialState(cpu=best_device().type == "cpu").is_main_process:
        tell, progress = _silent, no_progress
    check_options(recipe.data)
    place = choose_place(recipe, resume)
    for note in place.notes:
        tell(note)
    if place.state == "finished":
        tell(f"{place.folder} is finished; there is nothing to resume.")
        return Result(place.folder, {}, recipe.training.steps, 0.0)
    this = assemble(recipe, RunFolder(place.folder), tell)
    if place.state == "unfinished":
        found = this.trainer.resume()
        tell(
            f"Going on after step {this.trainer.step} of {this.recipe.training.steps}."
            if found
            else f"{place.folder} has no checkpoint yet; it begins at step 0."
        )
    _train(this, tell, progress)
    files = _export(this)
    result = Result(place.folder, files, this.recipe.training.steps, time.monotonic() - started)
    _summarise(this, result, tell)
    return result


def assemble(recipe: Recipe, folder: RunFolder, tell: Tell = print) -> Run:
    """Puts the parts of a run together without writing anything.

    The recipe in the result is the resolved one: presets and `auto` are replaced by what they mean
    for this model and machine.

    Raises:
        UserError: If pictures, model or settings are no good.
    """
    pictures = scan_folder(_given(recipe.data.instance_dir), recipe.data.instance_prompt)
    section, sentence = resolved(recipe.model)
    tell(sentence)
    backbone = load_backbone(section)
    for note in backbone.notes:
        tell(note)
    recipe = resolve(recipe.model_copy(update={"model": section}), backbone, folder.path.name)
    raise_faults(list(recipe.contradictions()))
    adapter = recipe.make_adapter(backbone)
    # Before the source is made: the precision of the text encoders is part of its cache's keys (P4).
    backbone.to("cpu", PRECISIONS[recipe.training.precision])
    source = PictureSource(pictures, backbone, recipe.data, recipe.training.seed, adapter.trains_text)
    for line in source.summary():
        tell(line)
    trainer: Trainer[Any] = Trainer(
        adapter,
        Objective(backbone.scheduler, recipe.training.seed, adapter.predict_untrained),
        source,
        recipe.training,
        recipe.optimizer,
        folder,
        hooks=[(recipe.preview.every, _preview_hook(recipe, backbone, source, folder))],
        identity=_identity(recipe, source),
    )
    return Run(recipe, backbone, adapter, source, trainer, folder)


def resolve(recipe: Recipe, backbone: Backbone, name: str) -> Recipe:
    """The recipe with everything written out.

    Args:
        recipe: What the user set; its model is resolved already.
        backbone: That model, which decides on the preset and the resolution.
        name: Of the exported file, if the user gave none.
    """
    model = "storybook" if recipe.model.name == "storybook" else backbone.family
    values = with_preset(recipe, model).model_dump()
    if values["data"]["resolution"] is None:
        values["data"]["resolution"] = backbone.native_size
    values["training"]["precision"] = precision_name(dtype_on(values["training"]["precision"], best_device()))
    values["output"]["name"] = values["output"]["name"] or name
    return type(recipe).model_validate(values)


def _given(folder: Path | None) -> Path:
    assert folder is not None  # `Recipe.contradictions` has seen to it
    return folder.expanduser()


def _identity(recipe: Recipe, source: PictureSource) -> dict[str, Any]:
    """What makes a resumed run the same run: its settings (where they matter) and its data."""
    free = (*_FREE, "training.steps") if recipe.optimizer.schedule == "constant" else _FREE
    settings = {key: value for key, value in flatten(recipe.public()) if not key.startswith(free)}
    return settings | {"pictures and captions": source.digest()}


def _preview_hook(
    recipe: Recipe, backbone: Backbone, source: PictureSource, folder: RunFolder
) -> Callable[[int], None]:
    sampler = Sampler(backbone)

    def hook(step: int) -> None:
        preview(sampler, source.captions(), recipe.preview, folder.sample(step), recipe.data.resolution)

    return hook


def _train(this: Run, tell: Tell, progress: Progress) -> None:
    recipe, accelerator = this.recipe, this.trainer.accelerator
    this.backbone.to(accelerator.device)
    with progress("Encoding pictures and captions") as report:
        this.source.prepare(report)
    if recipe.data.cache:
        this.backbone.free_encoders()
    accelerator.wait_for_everyone()  # all processes have chosen their folder before it appears
    if accelerator.is_main_process:
        _save_recipe(this)
    steps, rows = recipe.training.steps, this.trainer.rows_per_step
    pictures = "picture" if rows == 1 else "pictures"
    tell(f"Training {steps} steps of {rows} {pictures}; the results go to {this.folder.path}.")
    this.trainer.run()


def _save_recipe(this: Run) -> None:
    # Without the folder, so that running it again makes a new one.
    output = this.recipe.output.model_copy(update={"dir": None})
    comment = f"The resolved recipe of this run: `finetune run {this.folder.recipe}` repeats it."
    this.recipe.model_copy(update={"output": output}).save(this.folder.recipe, comment)


def _export(this: Run) -> dict[Path, str]:
    if not this.trainer.accelerator.is_main_process:
        return {}
    name = this.recipe.run_name
    with this.trainer.evaluating(), torch.no_grad():
        captions = [picture.caption for picture in this.source.folder.pictures]
        data = DataFacts(this.source.folder.path.resolve().name, this.source.digest(), captions)
        metadata = run_metadata(this.recipe.public(), this.backbone, data, name=name, step=this.trainer.step)
        return this.recipe.write_results(this.adapter, this.backbone, this.folder.path, name, metadata)


def _summarise(this: Run, result: Result, tell: Tell) -> None:
    minutes, seconds = divmod(round(result.seconds), 60)
    tell(f"Done in {minutes}:{seconds:02d} min. {result.folder} holds")
    width = max((len(path.name) for path in result.files), default=0)
    for path, purpose in result.files.items():
        tell(f"  {path.name:{width}}  {purpose}")
    prompt = next(iter(this.source.captions()), "")
    tell(f"Try it: finetune sample {shlex.quote(prompt)} --lora {shlex.quote(str(result.folder))}")
