"""The first stage of pretraining: the autoencoder, in a folder of its own inside the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL

from finetune.adapters.autoencoder import Autoencoding
from finetune.backbones.whitening import whiten
from finetune.config import OptimizerSection
from finetune.data import Folder, scan_folder
from finetune.data.folder import digest_of
from finetune.data.pixels import PixelSource
from finetune.diffusion.reconstruction import PixelRows, Reconstruction
from finetune.files import whole_folder
from finetune.recipes.reporter import Reporter
from finetune.sampling.grid import grid, to_images
from finetune.sampling.png import write_png
from finetune.training import RunFolder, Trainer
from finetune.training.watcher import Event, Watcher

if TYPE_CHECKING:
    from finetune.recipes.pretrain import PretrainRecipe

MEASURED = 4_000
"""Maximum number of pictures for the whitening of the latents."""
SHOWN = 8
"""Pictures in a preview, each above its reconstruction."""


def train_autoencoder(
    recipe: PretrainRecipe, vae: AutoencoderKL, pictures: Folder, folder: RunFolder, report: Reporter
) -> None:
    """Trains and whitens `vae` in place; resumes where an earlier call stopped.

    Args:
        recipe: Resolved.
        vae: With random weights.
        pictures: The captioned ones; those of `autoencoder.data_dir` are added.
        folder: The run folder.
        report: Tells the user about long work.

    Raises:
        ConfigError: If the earlier one had other settings.
        DataError: If the added pictures cannot be read.
    """
    section, stage = recipe.autoencoder, RunFolder(folder.path / recipe.stages[0])
    with recipe.reader(report) as reader:
        place = section.data_dir and section.data_dir.expanduser()
        more = scan_folder(place, "", recipe.data, reader).pictures if place else ()
    everything, seed = (*pictures.pictures, *more), recipe.training.seed
    source = PixelSource(everything, recipe.resolution, seed, recipe.data.cache)
    trainer = _trainer(recipe, vae.requires_grad_(True), source, stage, report.watcher)
    if trainer.accelerator.is_main_process:
        folder.path.mkdir(parents=True, exist_ok=True)
        recipe.save_in(folder)  # from now on it can be resumed
    trainer.resume()
    for note in trainer.notes:
        report.warn(note)
    finished = stage.path / "vae"
    if finished.is_dir():
        report.tell(f"The autoencoder is already trained: {finished}.")
        vae.load_state_dict(AutoencoderKL.from_pretrained(finished).state_dict())
    else:
        with report.progress("Reading pictures") as progress:
            source.prepare(progress)
        steps, rows = section.steps, trainer.rows_per_step
        report.tell(
            f"Training the autoencoder for {steps} steps of {rows} pictures, out of {len(everything)}, on "
            f"their center squares, half of them mirrored; it goes to {stage.path}."
        )
        trainer.run()
        _finish(trainer, vae, source, finished, section.whiten)
    vae.requires_grad_(False).eval().to("cpu")


def _trainer(
    recipe: PretrainRecipe,
    vae: AutoencoderKL,
    source: PixelSource,
    stage: RunFolder,
    watcher: Watcher | None,
) -> Trainer[PixelRows]:
    section, seed = recipe.autoencoder, recipe.training.seed
    side = recipe.resolution // 2 ** (len(vae.config.block_out_channels) - 1)
    own = {"steps": section.steps, "batch_size": section.batch_size, "accumulation": 1,
           "ema": True, "ema_decay": section.ema_decay, "attention": "sdpa", "compile": False}  # fmt: skip
    return Trainer(
        Autoencoding(vae),
        Reconstruction(seed, (vae.config.latent_channels, side, side), section),
        source,
        recipe.training.model_copy(update=own),
        OptimizerSection(
            lr=section.lr,
            betas=(0.9, 0.98),
            weight_decay=0.0,
            schedule="cosine",
            warmup_steps=min(300, section.steps // 10),
        ),
        stage,
        hooks=[(recipe.preview.every, lambda step: _preview(vae, source, stage, step))],
        identity=_identity(recipe, source),
        watcher=watcher,
    )


def _finish(
    trainer: Trainer[PixelRows], vae: AutoencoderKL, source: PixelSource, out: Path, whitened: bool
) -> None:
    """Takes the EMA weights, whitens the latents and writes the autoencoder."""
    with trainer.evaluating():
        average = {name: weight.detach().clone() for name, weight in vae.state_dict().items()}
    vae.load_state_dict(average)
    vae.eval()
    if whitened:
        whiten(vae, (source.pixels(chunk) for chunk in source.chunks(MEASURED)))
    if trainer.accelerator.is_main_process:
        with whole_folder(out) as aside:
            vae.save_pretrained(aside)
    trainer.accelerator.wait_for_everyone()


def _identity(recipe: PretrainRecipe, source: PixelSource) -> dict[str, Any]:
    chosen = {f"autoencoder.{key}": value for key, value in recipe.public()["autoencoder"].items()}
    return {
        **chosen,
        "architecture": recipe.architecture.sizes(),
        "data.resolution": recipe.resolution,
        "training.seed": recipe.training.seed,
        "training.precision": recipe.training.precision,
        "training.tf32": recipe.training.tf32,
        "pictures": digest_of(source.pictures),
    }


def _preview(vae: AutoencoderKL, source: PixelSource, stage: RunFolder, step: int) -> Event:
    pixels = source.pixels(range(min(SHOWN, len(source.pictures))))
    with torch.no_grad():
        made = vae.decode(vae.encode(pixels.to(vae.device)).latent_dist.mean).sample
    write_png(grid([*to_images(pixels), *to_images(made)], columns=len(pixels)), stage.sample(step))
    return Event("preview", stage.sample(step))
