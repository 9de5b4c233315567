"""Making the bundled model: `finetune pretrain`.

Three stages, each on the trainer that every recipe uses, with progress, checkpoints and resume:

1. `vae`: the autoencoder on drawn scenes and natural-looking textures.
2. `unet`: UNet and text encoder together on captioned scenes: the `full` adapter.
3. `package`: both in fp16, as a plain diffusers folder.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.adapters.full import Full
from finetune.backbones import Backbone
from finetune.backbones.fingerprint import fingerprint
from finetune.config.sections import FullSection, OptimizerSection, TrainingSection
from finetune.data.latents import StackedLatents
from finetune.data.source import LatentSource
from finetune.data.texts import TokenTexts
from finetune.diffusion.objective import Objective
from finetune.files import whole_file, whole_folder
from finetune.sampling.grid import grid
from finetune.sampling.sampler import Sampler
from finetune.storybook.architecture import make_backbone
from finetune.storybook.autoencoder import (
    Autoencoding,
    Reconstruction,
    encode_means,
    make_autoencoder,
    whiten,
)
from finetune.storybook.pictures import PixelSource, draw_for_autoencoder, draw_world
from finetune.training import RunFolder, Trainer

VAE_PICTURES, VAE_STEPS, VAE_BATCH = 30_000, 12_000, 8
UNET_PICTURES, UNET_STEPS, UNET_BATCH, CAPTIONS = 40_000, 7_500, 32, 6
CAPTION_DROPOUT = 0.08


def say(done: int, total: int) -> None:
    """A plain line now and then."""
    if done % 5000 == 0 or done == total:
        print(f"  {done}/{total}", file=sys.stderr, flush=True)


def train_vae(folder: Path, steps: int = VAE_STEPS, seed: int = 0, pictures: int = VAE_PICTURES) -> Path:
    """Trains and whitens the autoencoder; taken up where it stopped if called again.

    Args:
        folder: Run folder of this stage.
        steps: Optimizer steps.
        seed: Seed of pictures, initial weights and draws.
        pictures: How many pictures are drawn.

    Returns:
        The finished autoencoder's folder.
    """
    print(f"drawing {pictures} pictures", file=sys.stderr)
    drawn = draw_for_autoencoder(pictures, seed, say)
    torch.manual_seed(seed)
    vae = make_autoencoder()
    trainer = Trainer(
        Autoencoding(vae),
        Reconstruction(seed),
        PixelSource(drawn, seed),
        TrainingSection(
            steps=steps, batch_size=VAE_BATCH, precision="bf16", seed=seed, ema=True, ema_decay=0.998,
            checkpoint_every=500, log_every=50,
        ),
        OptimizerSection(lr=2e-3, betas=(0.9, 0.98), weight_decay=0, schedule="cosine", warmup_steps=300),
        RunFolder(folder),
        identity={"stage": "vae", "steps": steps, "seed": seed, "pictures": pictures},
    )  # fmt: skip
    trainer.resume()
    trainer.run()
    with trainer.evaluating():
        vae.eval()
        whiten(vae, drawn[:4000])
        with whole_folder(folder / "vae") as out:
            vae.save_pretrained(out)
    return folder / "vae"


def train_unet(
    folder: Path, vae_folder: Path, steps: int = UNET_STEPS, seed: int = 0, pictures: int = UNET_PICTURES
) -> Path:
    """Trains UNet and text encoder on captioned scenes; taken up where it stopped if called again.

    Args:
        folder: Run folder of this stage.
        vae_folder: What `train_vae` returned.
        steps: Optimizer steps.
        seed: Seed of pictures, captions, initial weights and draws.
        pictures: How many pictures are drawn.

    Returns:
        The finished model: a diffusers folder in fp16.
    """
    print(f"drawing {pictures} pictures", file=sys.stderr)
    drawn, captions = draw_world(pictures, seed, CAPTIONS, say)
    vae = AutoencoderKL.from_pretrained(vae_folder).eval()
    backbone = make_backbone(vae, [text for texts in captions[:10_000] for text in texts], seed)
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
        TrainingSection(
            steps=steps, batch_size=UNET_BATCH, precision="bf16", seed=seed, ema=True, ema_decay=0.9995,
            checkpoint_every=500, log_every=50,
        ),
        OptimizerSection(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, schedule="cosine", warmup_steps=300),
        run,
        hooks=[(1000, lambda step: _preview(backbone, run.sample(step)))],
        identity={"stage": "unet", "steps": steps, "seed": seed, "pictures": pictures},
    )  # fmt: skip
    trainer.resume()
    trainer.run()
    with trainer.evaluating():
        return package(backbone, folder / "model")


def package(backbone: Backbone, out: Path) -> Path:
    """Writes the model as `StableDiffusionPipeline.from_pretrained` reads it: UNet and VAE in fp16.

    The text encoder stays in fp32, since transformers loads a model in the precision of its file, and
    diffusers in fp32; a half text encoder would not fit the rest.
    """
    halved = (backbone.unet, backbone.vae)
    for module in halved:
        module.half()
    with whole_folder(out) as folder:
        backbone.pipeline().save_pretrained(folder, safe_serialization=True)
    for module in halved:
        module.float()
    return out


def _latents(vae: AutoencoderKL, pictures: Tensor, folder: Path) -> StackedLatents:
    """The pictures' posteriors, kept by content so that resuming need not encode them again."""
    content = hashlib.sha256(pictures.numpy().data).hexdigest() + fingerprint([vae], [vae.config])
    file = folder / f"latents-{hashlib.sha256(content.encode()).hexdigest()[:16]}.safetensors"
    if not file.exists():
        print("encoding them", file=sys.stderr)
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
