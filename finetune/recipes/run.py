"""Carries a recipe out: validate everything, load, train, write the results, say what was done."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from finetune.adapters import Adapter
from finetune.backbones import Backbone
from finetune.backbones.memory import move
from finetune.backbones.precision import PRECISIONS, best_device, dtype_on, precision_name, vae_dtype
from finetune.config.base import name_fault
from finetune.data import PictureSource, PriorSource
from finetune.data.streams.source import StreamSource
from finetune.diffusion.schedule import scheduler_for
from finetune.formats import DataFacts, run_metadata
from finetune.kernels import give_back_freed_memory, keep_freed_memory
from finetune.recipes.account import failure_told, write_account
from finetune.recipes.attention import with_attention
from finetune.recipes.base import Recipe
from finetune.recipes.check import told
from finetune.recipes.evaluating import Pictures, evaluation_hooks, told_at_end
from finetune.recipes.faults import raise_faults
from finetune.recipes.fields import flatten
from finetune.recipes.foreign import tell_if_foreign
from finetune.recipes.length import in_steps
from finetune.recipes.place import claimed_by_all
from finetune.recipes.presets import values_with_preset, warmup_note, with_preset
from finetune.recipes.reporter import SILENT, Progress, Reporter, Tell, no_progress
from finetune.recipes.resume import DATA, WEIGHTS, asks_for_more_steps, resume_run
from finetune.recipes.room import check_room
from finetune.recipes.streams import fit_for, source_of
from finetune.recipes.validation import held_out, make_validation, validation_source
from finetune.sampling.schedulers import make_scheduler, set_timesteps
from finetune.training import RunFolder, Trainer, check_trainable
from finetune.training.watcher import Watcher

# Settings that may differ when a run is resumed, since they do not change the result.
_FREE = ("preview.", "evaluate.", "output.", "data.cache", "data.validation_every", "data.crop_warning",
         "training.log_every", "training.trackers", "training.report",
         "training.checkpoint_every", "training.keep_checkpoints")  # fmt: skip
# How long processes wait for the first one, which may have a thousand class pictures to sample.
_PATIENCE = timedelta(days=1)


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
    source: PictureSource | PriorSource | StreamSource
    trainer: Trainer[Any]
    folder: RunFolder
    validation: PictureSource | PriorSource | None = None
    summary: tuple[str, ...] = ()


def run(
    recipe: Recipe,
    *,
    resume: bool = False,
    tell: Tell = print,
    progress: Progress = no_progress,
    warning: Tell | None = None,
    watcher: Watcher | None = None,
) -> Result:
    """Trains what `recipe` describes and writes the run folder.

    Args:
        recipe: The settings; what is not set gets the preset of the model.
        resume: Continue an unfinished run of this recipe.
        tell: Called with each line for the user.
        progress: Opens a progress bar with a label; see `Reporter`.
        warning: Called with each line about what the user may not expect; None calls `tell`.
        watcher: Is told how training goes; None shows it on the terminal.

    Raises:
        UserError: Something is wrong with the input; nothing was written.
        NonFiniteLoss: The loss became NaN or infinite.
        Interrupted: The user stopped the run; a checkpoint was written.
    """
    started = time.monotonic()
    report = Reporter(tell, progress, warning, watcher)
    # Without a GPU, accelerate needs `cpu`, or each process takes itself for the only one.
    if not PartialState(cpu=best_device().type == "cpu", timeout=_PATIENCE).is_main_process:
        report = SILENT
    with claimed_by_all(recipe, resume) as place:
        for note in place.notes:
            report.warn(note)
        if place.state == "finished" and not asks_for_more_steps(recipe, place.folder):
            report.tell(
                f"{place.folder} is finished; there is nothing to resume. Raise training.steps to continue."
            )
            return Result(place.folder, {}, recipe.training.steps, 0.0)
        folder = RunFolder(place.folder)
        folder.check()
        keep_freed_memory()
        this = assemble(recipe, folder, report)
        if place.state != "free":
            resume_run(this, place.state, report)
        check_room(this)
        with failure_told(folder, main=this.trainer.accelerator.is_main_process):
            _train(this, report)
            files = _export(this)
        result = Result(place.folder, files, this.trainer.step, time.monotonic() - started)
        _summarize(this, result, report)
    return result


def assemble(recipe: Recipe, folder: RunFolder, report: Reporter = SILENT) -> Run:
    """Puts the parts of a run together.

    Nothing is written but what must be made first: class pictures, an autoencoder.

    The recipe in the result is the resolved one: presets and `auto` are replaced by what they mean
    for this model and machine.

    Raises:
        UserError: If pictures, model or settings cannot be used.
    """
    scanned = recipe.scan(report)
    recipe = fit_for(scanned, recipe)
    pictures, held = held_out(recipe, scanned, report)
    if pictures.revision is not None:  # run again, the recipe trains on the same
        data = recipe.data.model_copy(update={"revision": pictures.revision})
        recipe = recipe.model_copy(update={"data": data})
    given, backbone = recipe.load(pictures, report)
    content = backbone.fingerprint()  # before an adapter is attached, which changes it
    given = in_steps(given, pictures, with_preset(given, _preset_of(given, backbone)))
    recipe = resolve(given, backbone, folder.path.resolve().name)
    if shortened := warmup_note(given, recipe, _preset_of(recipe, backbone)):
        report.warn(shortened)
    raise_faults(list(recipe.faults()))
    for note in recipe.notes():
        report.warn(note)
    check_trainable(recipe.training, recipe.optimizer)
    recipe = with_attention(recipe, backbone, folder, report)
    tell_if_foreign(recipe, backbone, pictures.pictures, report)
    adapter = recipe.make_adapter(backbone)
    # Before the source is made: what the encoders compute in is part of its cache's keys (P4).
    backbone.set_text_dtype(PRECISIONS[recipe.training.precision])
    backbone.vae_dtype = PRECISIONS[recipe.model.vae_precision]
    scheduler = scheduler_for(backbone.scheduler, recipe.objective)
    if recipe.preview.every:
        # Fails now if it cannot follow it, or not in so many steps.
        previews = make_scheduler(recipe.preview.scheduler, scheduler)
        set_timesteps(previews, recipe.preview.steps, None, torch.device("cpu"))
    objective = recipe.make_objective(scheduler, adapter)
    recipe.train_first(backbone, pictures, folder, report)
    first, source = source_of(recipe, pictures, backbone, adapter, folder, report)
    validation = validation_source(recipe, held, adapter) if held else None
    # Only now: class pictures come from the unmodified model. Previews and the exported model follow the
    # noise schedule of the training.
    backbone.scheduler = scheduler
    summary = (*source.summary(), *told(recipe, pictures))
    report.tell(summary[0])
    for line in summary[1:]:
        report.warn(line)
    hooks = evaluation_hooks(recipe, Pictures(pictures, held), adapter, folder, report)
    hooks.append((recipe.preview.every, recipe.make_preview(adapter, first, folder.sample)))
    if validation:
        hook = make_validation(recipe, validation, adapter, objective, folder)
        hooks.append((recipe.data.validation_every, hook))
    trainer: Trainer[Any] = Trainer(
        adapter,
        objective,
        source,
        recipe.training,
        recipe.optimizer,
        folder,
        hooks=hooks,
        identity={**_identity(recipe, source), WEIGHTS: content, **recipe.started_from(adapter)},
        watcher=report.watcher,
    )
    return Run(recipe, backbone, adapter, source, trainer, folder, validation, summary)


def resolve(recipe: Recipe, backbone: Backbone, name: str) -> Recipe:
    """The recipe with everything written out.

    Args:
        recipe: What the user set; its model is resolved already.
        backbone: That model, which decides on the preset and the resolution.
        name: The run folder's; also the files', if the user gave none and it is a valid one.
    """
    values = values_with_preset(recipe, _preset_of(recipe, backbone))
    device = best_device()
    dtype = dtype_on(values["training"]["precision"], device, backbone.unet)
    values["training"]["precision"] = precision_name(dtype)
    values["model"]["vae_precision"] = precision_name(vae_dtype(recipe.model.vae_precision, dtype, device))
    recipe.fill_in(values, backbone)
    if recipe.output.name is None:
        values["output"]["name"] = recipe.run_name if name_fault(name) else name
    return type(recipe).model_validate(values)


def _preset_of(recipe: Recipe, backbone: Backbone) -> str:
    return "storybook" if recipe.model.name == "storybook" else backbone.family


def _identity(recipe: Recipe, source: PictureSource | PriorSource | StreamSource) -> dict[str, Any]:
    """What makes a resumed run the same run: its settings (where they matter) and its data."""
    free = _FREE if recipe.optimizer.knows_length else (*_FREE, "training.steps")
    settings = {key: value for key, value in flatten(recipe.public()) if not key.startswith(free)}
    return settings | {DATA: source.digest()}


def prepare(this: Run, report: Reporter = SILENT) -> None:
    """Encodes pictures and captions into the caches, then casts the UNet to the precision of the run.

    In this order a CPU never holds both the UNet and what encoding needs: until it is cast, it is mapped from
    its file.
    """
    recipe, device = this.recipe, this.trainer.accelerator.device
    this.backbone.to(device)
    with report.progress("Encoding pictures and captions") as progress:
        this.source.prepare(progress)
        if this.validation:
            this.validation.prepare()
    for line in this.source.found():
        report.tell(line)
    if recipe.data.cache:
        this.backbone.free_encoders(text=not recipe.captions.varies)
    give_back_freed_memory()  # what encoding needed
    move(this.backbone.unet, device, PRECISIONS[recipe.training.precision])


def _train(this: Run, report: Reporter) -> None:
    prepare(this, report)
    recipe, accelerator = this.recipe, this.trainer.accelerator
    accelerator.wait_for_everyone()  # all processes have chosen their folder before it appears
    if accelerator.is_main_process:
        write_account(this.folder, recipe, this.source, this.summary)
    steps, rows = recipe.training.steps, this.trainer.rows_per_step
    pictures = "picture" if rows == 1 else "pictures"
    epoch = ""
    if not isinstance(this.source, StreamSource):
        epoch = f", {round(len(this.source) / rows, 1):g} steps an epoch"
    report.tell(f"Training {steps} steps of {rows} {pictures}{epoch}; the results go to {this.folder.path}.")
    this.trainer.run()


def _export(this: Run) -> dict[Path, str]:
    if not this.trainer.accelerator.is_main_process:
        return {}
    name = this.recipe.run_name
    with this.trainer.evaluating(), torch.no_grad():
        captions = [c for picture in this.source.folder.pictures for c in picture.captions]
        names = ", ".join(folder.resolve().name for folder in this.recipe.folders)
        data = DataFacts(names, this.source.digest(), captions)
        metadata = run_metadata(this.recipe.public(), this.backbone, data, name=name, step=this.trainer.step)
        return this.recipe.write_results(this.adapter, this.backbone, this.folder.path, name, metadata)


def _summarize(this: Run, result: Result, report: Reporter) -> None:
    minutes, seconds = divmod(round(result.seconds), 60)
    for line in this.source.met() if isinstance(this.source, StreamSource) else ():
        report.tell(line)
    report.tell(f"Done in {minutes}:{seconds:02d} min. {result.folder} holds")
    width = max((len(path.name) for path in result.files), default=0)
    for path, purpose in result.files.items():
        report.tell(f"  {path.name:{width}}  {purpose}")
    for line in told_at_end(this.recipe, this.folder, result.steps):
        report.tell(line)
    prompt = next((caption for caption in this.source.captions() if caption), "a picture")
    report.tell(f"Try it: finetune sample {shlex.quote(prompt)} {this.recipe.sample_flags(result.folder)}")
