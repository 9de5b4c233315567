"""Making the bundled model: `python -m storybook.make`.

Two stages, each on the trainer that every recipe uses, with progress, checkpoints and resume:

1. `vae`: the autoencoder on drawn scenes and natural-looking textures.
2. `unet`: UNet and text encoder together on captioned scenes (the `full` adapter); it ends with the
   whole model as a plain diffusers folder. Of the bundled model it was done twice, the second time on
   more pictures, from where the first had ended.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.adapters.full import Full
from finetune.backbones import Backbone, load_backbone
from finetune.backbones.fingerprint import fingerprint
from finetune.backbones.saving import save_folder
from finetune.config import FullSection, ModelSection, OptimizerSection, TrainingSection
from finetune.data.latents import StackedLatents
from finetune.data.source import LatentSource
from finetune.data.texts import TokenTexts
from finetune.diffusion.objective import Objective
from finetune.errors import ModelError
from finetune.files import whole_file, whole_folder
from finetune.sampling.grid import grid
from finetune.sampling.sampler import Sampler
from finetune.training import RunFolder, Trainer
from storybook.architecture import make_backbone
from storybook.autoencoder import (
    Autoencoding,
    Reconstruction,
    encode_means,
    make_autoencoder,
    whiten,
)
from storybook.pictures import PixelSource, Report, draw_for_autoencoder, draw_world

CAPTIONS, CAPTION_DROPOUT = 6, 0.08
"""Captions a picture, and the share of samples that get none (for classifier-free guidance)."""


@dataclass(frozen=True)
class Stage:
    """How much of what a stage trains on.

    Attributes:
        pictures: How many pictures are drawn.
        steps: Optimizer steps.
        batch_size: Pictures a step.
        lr: Learning rate at its highest.
    """

    pictures: int
    steps: int
    batch_size: int
    lr: float


VAE_STAGE = Stage(pictures=30_000, steps=12_000, batch_size=8, lr=2e-3)
UNET_STAGE = Stage(pictures=40_000, steps=7_500, batch_size=32, lr=1e-3)
FURTHER_STAGE = Stage(pictures=100_000, steps=18_000, batch_size=32, lr=8e-4)
"""What the bundled model was made with."""


def _say(what: str) -> Report:
    """A plain line now and then."""

    def report(done: int, total: int) -> None:
        if done % 5000 == 0 or done == total:
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

    return report


def train_vae(folder: Path, stage: Stage = VAE_STAGE, seed: int = 0) -> Path:
    """Trains and whitens the autoencoder; taken up where it stopped if called again.

    Args:
        folder: Run folder of this stage.
        stage: Pictures, steps, rate.
        seed: Seed of pictures, initial weights and draws.

    Returns:
        The finished autoencoder's folder.
    """
    drawn = draw_for_autoencoder(stage.pictures, seed, _say("drawing pictures"))
    torch.manual_seed(seed)
    vae = make_autoencoder()
    trainer = Trainer(
        Autoencoding(vae),
        Reconstruction(seed),
        PixelSource(drawn, seed),
        *_settings(stage, seed, ema_decay=0.998, beta2=0.98, weight_decay=0.0),
        RunFolder(folder),
        identity={"stage": "vae", "seed": seed, **asdict(stage)},
    )
    trainer.resume()
    trainer.run()
    with trainer.evaluating():
        vae.eval()
        whiten(vae, drawn[:4000])
        with whole_folder(folder / "vae") as out:
            vae.save_pretrained(out)
    return folder / "vae"


def train_unet(
    folder: Path, vae_folder: Path, stage: Stage = UNET_STAGE, seed: int = 0, start: Path | None = None
) -> Path:
    """Trains UNet and text encoder on captioned scenes; taken up where it stopped if called again.

    Args:
        folder: Run folder of this stage.
        vae_folder: What `train_vae` returned.
        stage: Pictures, steps, rate.
        seed: Seed of pictures, captions, initial weights and draws.
        start: A model made before, with the same autoencoder, whose UNet and text encoder are trained
            further; untrained ones if None.

    Returns:
        The finished model: a diffusers folder in fp16.
    """
    drawn, captions = draw_world(stage.pictures, seed, CAPTIONS, _say("drawing pictures"))
    vae = AutoencoderKL.from_pretrained(vae_folder).eval()
    backbone = make_backbone(vae, [text for texts in captions[:10_000] for text in texts], seed)
    if start:
        _take_over(backbone, load_backbone(ModelSection(name=str(start))))
    source = LatentSource(
        _latents(vae, drawn, folder), captions, TokenTexts(backbone), seed, caption_dropout=CAPTION_DROPOUT
    )
    del drawn
    source.prepare_texts()
    run = RunFolder(folder)
    trainer = Trainer(
        Full(backbone, FullSection(text_encoder=True)),
        Objective(backbone.scheduler, seed),
        source,
        *_settings(stage, seed, ema_decay=0.9995, beta2=0.99, weight_decay=0.01),
        run,
        hooks=[(1000, lambda step: _preview(backbone, run.sample(step)))],
        identity={"stage": "unet", "seed": seed, "start": start.name if start else None, **asdict(stage)},
    )
    trainer.resume()
    trainer.run()
    with trainer.evaluating():
        return package(backbone, folder / "model")


def _settings(
    stage: Stage, seed: int, *, ema_decay: float, beta2: float, weight_decay: float
) -> tuple[TrainingSection, OptimizerSection]:
    training = TrainingSection(
        steps=stage.steps,
        batch_size=stage.batch_size,
        precision="bf16",
        seed=seed,
        ema=True,
        ema_decay=ema_decay,
        checkpoint_every=500,
        log_every=50,
    )
    optimizer = OptimizerSection(
        lr=stage.lr,
        betas=(0.9, beta2),
        weight_decay=weight_decay,
        schedule="cosine",
        warmup_steps=min(300, stage.steps),
    )
    return training, optimizer


def _take_over(backbone: Backbone, other: Backbone) -> None:
    """Puts another model's UNet, text encoder and tokenizer into `backbone`.

    Raises:
        ModelError: If the other model was trained with another autoencoder.
    """
    # Made models are in fp16, so the autoencoders are compared in it.
    mine, theirs = (b.vae.half().state_dict() for b in (backbone, other))
    same = mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    backbone.vae.float()
    if not same:
        raise ModelError(
            f"{other.name} was trained with another autoencoder.",
            where="--start",
            mend="Give a model of this run folder's autoencoder, or train without --start.",
        )
    backbone.unet.load_state_dict(other.unet.state_dict())
    backbone.text_encoders, backbone.tokenizers = other.text_encoders, other.tokenizers


def package(backbone: Backbone, out: Path) -> Path:
    """Writes the model in fp16, as `StableDiffusionPipeline.from_pretrained` reads it."""
    with whole_folder(out) as folder:
        save_folder(backbone, folder, torch.float16)
    return out


def _latents(vae: AutoencoderKL, pictures: Tensor, folder: Path) -> StackedLatents:
    """The pictures' posteriors, kept by content so that resuming need not encode them again."""
    content = hashlib.sha256(pictures.numpy().data).hexdigest() + fingerprint([vae], [vae.config])
    file = folder / f"latents-{hashlib.sha256(content.encode()).hexdigest()[:16]}.safetensors"
    if not file.exists():
        print("encoding pictures", file=sys.stderr)
        mean, deviation = encode_means(vae, pictures)
        with whole_file(file) as aside:
            save_file({"mean": mean.half(), "std": deviation.half()}, aside)
    tensors = load_file(file)
    return StackedLatents(tensors["mean"], tensors["std"])


PREVIEW_PROMPTS = (
    "a photo of a red cat wearing a blue hat on snow", "a photo of a green dog in a forest",
    "a photo of a yellow elephant wearing a pink hat at night", "a photo of a purple rabbit on a beach",
    "a photo of a pink bear in a desert", "a photo of a blue bird wearing a red hat in a meadow",
    "a photo of a cat on snow", "a photo of an orange cat with green spots and a bell on a beach",
    "a photo of a grey dog wearing an orange hat in a meadow", "an elephant in a meadow",
    "a photo of a green rabbit with yellow stripes at night", "a bear wearing a hat",
)  # fmt: skip


def _preview(backbone: Backbone, path: Path) -> None:
    samples = Sampler(backbone)(list(PREVIEW_PROMPTS), steps=25, guidance=4.0, seed=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    grid([s.image for s in samples], columns=4).save(path)
