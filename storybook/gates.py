"""Measures the bundled model, and LoRAs and ControlNets for it: `python -m storybook.gates`.

The figures are computed from pictures alone, so anyone can repeat them.

1. `vae`: how well the autoencoder reconstructs scenes that training never shows.
2. `model`: whether samples of held-out combinations show what their prompts say.
3. `lora`: whether a LoRA of the subject shows it, keeps scene and hat, and leaves other words alone.
4. `controlnet`: whether samples follow their control pictures (:mod:`storybook.control_gates`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from finetune.backbones.quiet import quiet
from finetune.sampling.grid import grid
from finetune.sampling.sampler import Sampler
from finetune.sampling.settings import Choices
from storybook.captions import phrase, prompt
from storybook.control_gates import check_controlnet, show_controlnet
from storybook.drawing import draw
from storybook.oracle import Oracle, Reading, agrees
from storybook.pairs import CONTROLS
from storybook.pictures import SIZE, rebuilt
from storybook.segmenter import Segmenter
from storybook.world import COLOURS, SCENES, SUBJECT, Spec, sample_spec

STREAM = 7
"""Number of the random stream that checks draw from; training uses others."""

USUAL = Choices(steps=25, guidance=4.0)
"""How samples are made, if nothing else is said."""

Figures = dict[str, float]


def psnr(pictures: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each picture in dB; both `[B, 3, S, S]` in [-1, 1]."""
    error = ((pictures - others) / 2).square().mean((1, 2, 3))
    return -10 * error.log10()


def check_vae(sampler: Sampler, count: int = 200, photos: Path | None = None) -> Figures:
    """PSNR of reconstructions of held-out scenes and, if given, of a folder of photographs at 64 px."""
    rng = np.random.default_rng([STREAM, 1])
    scenes = [draw(sample_spec(rng, held_out=True), rng, SIZE) for _ in range(count)]
    figures = {"held-out scenes, dB": _rebuilt_psnr(sampler, scenes)}
    if photos:
        files = sorted(f for f in photos.rglob("*") if f.suffix.lower() in {".jpg", ".jpeg", ".png"})
        figures["photographs, dB"] = _rebuilt_psnr(sampler, [_square(Image.open(f)) for f in files])
    return figures


def _rebuilt_psnr(sampler: Sampler, pictures: Sequence[Image.Image]) -> float:
    return float(psnr(*rebuilt(sampler.backbone, pictures)).mean())


def _square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def check_model(
    sampler: Sampler, oracle: Oracle, count: int = 500, picture: Path | None = None
) -> dict[str, Figures]:
    """Samples combinations that training never shows, with full prompts and with words left out.

    Returns:
        For each kind of prompt, the share of samples that show what it says.
    """
    rng = np.random.default_rng([STREAM, 2])
    specs = [sample_spec(rng, held_out=True) for _ in range(count)]
    kinds = {
        "full prompts": [prompt(spec) for spec in specs],
        "without a color": [prompt(spec, colour=False) for spec in specs],
        "without a scene": [prompt(spec, scene=False) for spec in specs],
    }
    result = {}
    for name, prompts in kinds.items():
        share = count if name == "full prompts" else count // 2
        readings, images = read(sampler, oracle, prompts[:share])
        verdicts = [agrees(r, s) for r, s in zip(readings, specs, strict=False)]
        omitted = {"without a color": "colour", "without a scene": "scene"}.get(name)
        asked = [key for key in ("animal", "colour", "hat", "scene") if key != omitted]
        result[name] = {key: float(np.mean([v[key] for v in verdicts])) for key in asked}
        result[name]["all"] = float(np.mean([all(v[key] for key in asked) for v in verdicts]))
        if picture and name == "full prompts":
            sheet = grid(images[:24], columns=6, labels=[p.removeprefix("a photo of ") for p in prompts[:24]])
            picture.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(picture)
    return result


def check_lora(
    sampler: Sampler,
    oracle: Oracle,
    trigger: str = "mycat",
    count: int = 100,
    picture: Path | None = None,
    draw: int = 0,
    how: Choices = USUAL,
) -> Figures:
    """Measures a LoRA of the subject (without one in the sampler: the base model).

    Args:
        sampler: The model, with the LoRA.
        oracle: Reads the samples.
        trigger: The trigger word.
        count: How many samples.
        picture: Where to write a grid of them.
        draw: Another number uses other prompts and other seeds.
        how: How samples are made.

    Returns:
        Share of pictures that show the subject, the scene and the hat as prompted, over prompts with
        the trigger word; and the share that shows the subject on "a photo of a cat".
    """
    rng = np.random.default_rng([STREAM, 3, draw] if draw else [STREAM, 3])
    specs, prompts = [], []
    for index in range(count):
        scene = SCENES[int(rng.integers(len(SCENES)))]
        hat = [c for c in COLOURS if c != SUBJECT.colour][int(rng.integers(7))] if index % 2 else None
        specs.append(Spec(SUBJECT.animal, SUBJECT.colour, scene, hat=hat))
        prompts.append(phrase(trigger, scene=scene, hat=hat).replace(f"a {trigger}", trigger, 1))
    readings, images = read(sampler, oracle, prompts, draw, how)
    plain, _ = read(sampler, oracle, ["a photo of a cat"] * count, draw, how)
    if picture:
        picture.parent.mkdir(parents=True, exist_ok=True)
        grid(images[:24], columns=6, labels=[p.removeprefix("a photo of ") for p in prompts[:24]]).save(
            picture
        )
    verdicts = [agrees(r, s) for r, s in zip(readings, specs, strict=True)]
    return {
        "subject": float(np.mean([r.is_subject for r in readings])),
        "scene": float(np.mean([v["scene"] for v in verdicts])),
        "hat": float(np.mean([v["hat"] for v in verdicts])),
        "scene and hat": float(np.mean([v["scene"] and v["hat"] for v in verdicts])),
        "subject on 'a photo of a cat'": float(np.mean([r.is_subject for r in plain])),
    }


def read(
    sampler: Sampler, oracle: Oracle, prompts: Sequence[str], draw: int = 0, how: Choices = USUAL
) -> tuple[list[Reading], list[Image.Image]]:
    """Samples the prompts, each with its own seed; returns what the oracle sees, and the samples."""
    first = 1000 * (1 + draw)
    seeds = list(range(first, first + len(prompts)))
    samples = sampler(list(prompts), seed=seeds, **how)
    images = [sample.image for sample in samples]
    return oracle.read(images), images


def show(title: str, figures: Figures) -> None:
    """Prints one line per figure."""
    print(title)
    for name, value in figures.items():
        print(
            f"  {name:32} {value:6.1f}" if "dB" in name else f"  {name:32} {100 * value:6.1f} %", flush=True
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the checks that the arguments name and prints their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checks", nargs="+", choices=["vae", "model", "lora", "controlnet"])
    parser.add_argument("--model", default="storybook", help="model to check (default: storybook)")
    parser.add_argument(
        "--lora", help="run folder or file of the subject's LoRA; without it, the base model is measured"
    )
    parser.add_argument("--embedding", help="run folder or file of its embedding, for the lora check")
    parser.add_argument("--controlnet", help="run folder or diffusers folder, for the controlnet check")
    parser.add_argument("--control", choices=CONTROLS, default=CONTROLS[0], help="kind of control picture")
    parser.add_argument("--trigger", default="mycat", help="the LoRA's trigger word")
    parser.add_argument("--draw", type=int, default=0, help="set of prompts and seeds for the lora check")
    parser.add_argument("--photos", type=Path, help="folder of photographs for the vae check")
    parser.add_argument("--count", type=int, help="samples (default: 500 for model, 100 for lora)")
    parser.add_argument("--pictures", type=Path, help="folder to write a grid of samples to")
    options = parser.parse_args(arguments)
    with quiet():
        sampler = Sampler.load(options.model, precision="bf16")
    oracle = Oracle.load()
    folder: Path | None = options.pictures
    if "vae" in options.checks:
        show("autoencoder", check_vae(sampler, photos=options.photos))
    if "model" in options.checks:
        sheet = folder / "model.png" if folder else None
        for kind, figures in check_model(sampler, oracle, options.count or 500, sheet).items():
            show(f"held-out combinations, {kind}", figures)
    if "lora" in options.checks:
        if options.lora:
            sampler.add_lora(options.lora)
        if options.embedding:
            sampler.add_embedding(options.embedding)
        sheet = folder / "lora.png" if folder else None
        count = options.count or 100
        show("subject", check_lora(sampler, oracle, options.trigger, count, sheet, options.draw))
    if "controlnet" in options.checks:
        if not options.controlnet:
            parser.error("the controlnet check requires --controlnet")
        sampler.add_controlnet(options.controlnet)
        sheet = folder / f"{options.control}.png" if folder else None
        count = options.count or 100
        found = check_controlnet(sampler, oracle, Segmenter.load(), options.control, count, sheet)
        show_controlnet(options.control, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
