"""Measures how well samples follow their control pictures.

`python -m storybook.gates controlnet --controlnet DIR [--control silhouettes|edges]`

Scenes of combinations that training never shows are drawn, with their true silhouettes; the model samples
each scene's full prompt with the scene's control picture. The segmenter finds the animal in each sample
from the pixels alone, and the result is compared with the scene's silhouette.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from finetune.sampling.control import control_image
from finetune.sampling.grid import grid
from finetune.sampling.sampler import Sampler
from storybook.oracle import Oracle, agrees
from storybook.pairs import Scene, draw_scene
from storybook.pictures import SIZE, rebuilt
from storybook.segmenter import Segmenter, overlap

STREAM, STEPS, GUIDANCE = 9, 25, 4.0
_SHOWN = 12  # scenes in the grid


@dataclass(frozen=True)
class ControlFigures:
    """The results of the check.

    Attributes:
        overlaps: Mean intersection over union, in [0, 1], of silhouettes read from pictures and the
            scenes' true ones, by kind of picture.
        parts: Share of the samples that show what their prompts say, by part of the prompt.
        followed: Share of the samples whose silhouettes have an IoU of 0.8 or more.
    """

    overlaps: dict[str, float]
    parts: dict[str, float]
    followed: float


def check_controlnet(
    sampler: Sampler,
    oracle: Oracle,
    segmenter: Segmenter,
    kind: str,
    count: int = 100,
    picture: Path | None = None,
) -> ControlFigures:
    """Samples held-out scenes with their control pictures and reads what the samples show.

    Args:
        sampler: With one ControlNet.
        oracle: Reads animal, color, hat and scene.
        segmenter: Reads silhouettes.
        kind: `silhouettes` or `edges`.
        count: Scenes.
        picture: Where to write a grid of scenes, control pictures and samples.
    """
    scenes = [draw_scene(np.random.default_rng([STREAM, i]), held_out=True) for i in range(count)]
    truth = torch.stack([torch.from_numpy(np.asarray(s.mask) > 127) for s in scenes])
    controls = [scene.control(kind) for scene in scenes]
    prompts = [scene.caption for scene in scenes]
    steered = _sampled(sampler, prompts, controls)
    free = _sampled(sampler, prompts, None)
    verdicts = [agrees(r, s.spec) for r, s in zip(oracle.read(steered), scenes, strict=True)]
    _, decoded = rebuilt(sampler.backbone, [scene.picture for scene in scenes])
    ceiling = [control_image(row / 2 + 0.5) for row in decoded]
    read = segmenter.read(steered)
    overlaps = {
        "samples": overlap(read, truth),
        "upper bound: scenes via the VAE": overlap(segmenter.read(ceiling), truth),
        "samples vs. other silhouettes": overlap(read, truth.roll(1, 0)),
        "base model without control": overlap(segmenter.read(free), truth),
    }
    if picture:
        picture.parent.mkdir(parents=True, exist_ok=True)
        _sheet(scenes, controls, steered, free).save(picture)
    return ControlFigures(
        {name: float(values.mean()) for name, values in overlaps.items()},
        {part: float(np.mean([v[part] for v in verdicts])) for part in verdicts[0]},
        float((overlaps["samples"] >= 0.8).float().mean()),
    )


def _sampled(
    sampler: Sampler, prompts: Sequence[str], controls: Sequence[Image.Image] | None
) -> list[Image.Image]:
    seeds = list(range(2000, 2000 + len(prompts)))
    if controls is None:
        sampler = Sampler(sampler.backbone, precision="bf16")
    samples = sampler(
        list(prompts),
        control_images=None if controls is None else [controls],
        seed=seeds,
        size=SIZE,
        steps=STEPS,
        guidance=GUIDANCE,
    )
    return [sample.image for sample in samples]


def _sheet(
    scenes: Sequence[Scene],
    controls: Sequence[Image.Image],
    steered: Sequence[Image.Image],
    free: Sequence[Image.Image],
) -> Image.Image:
    rows = list(zip(scenes, controls, steered, free, strict=True))[:_SHOWN]
    pictures = [p for scene, control, one, other in rows for p in (scene.picture, control, one, other)]
    labels = [
        label
        for scene, *_ in rows
        for label in ("drawn", "control", scene.caption.removeprefix("a photo of "), "no control")
    ]
    return grid(pictures, 8, labels)


def show_controlnet(kind: str, figures: ControlFigures) -> None:
    """Prints one line per figure."""
    print(f"following the {kind} of held-out scenes, mean IoU of silhouettes")
    for name, value in figures.overlaps.items():
        print(f"  {name:32} {value:6.3f}")
    print(f"  {'samples with an IoU ≥ 0.8':32} {100 * figures.followed:6.1f} %")
    print("the same samples show what their prompts say")
    for name, value in figures.parts.items():
        print(f"  {name:32} {100 * value:6.1f} %", flush=True)
