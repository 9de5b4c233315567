"""How often the oracle is right: on drawn pictures, degraded ones, and reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from storybook.drawing import draw
from storybook.oracle import Oracle, Reading, agrees, pixels_of
from storybook.oracle_wear import wear
from storybook.world import COLOURS, SCENES, SUBJECT, Spec, is_subject, near_miss, sample_spec

CHECK_STREAM = 1
"""Number of the random stream that checks draw from; training uses another."""

_BATCH = 100

Change = Callable[[Tensor], Tensor]
"""Something done to pictures, [B, 3, 64, 64] between 0 and 1."""


def check_specs(count: int, seed: int = 0) -> list[tuple[Spec, np.random.Generator]]:
    """Draws specs to check on, each with the generator for its picture.

    A third are from the world, a third are the subject, a third are near
    misses; half of those from the world are combinations that the model never sees.
    """
    specs = []
    for i in range(count):
        rng = np.random.default_rng([seed, CHECK_STREAM, i])
        if i % 3 == 0:
            spec = sample_spec(rng, held_out=i % 2 == 0)
        elif i % 3 == 1:
            hat = COLOURS[int(rng.integers(len(COLOURS)))] if rng.random() < 0.45 else None
            scene = SCENES[int(rng.integers(len(SCENES)))]
            spec = replace(SUBJECT, scene=scene, hat=hat, bell=bool(rng.random() < 0.6))
        else:
            spec = near_miss(rng)
        specs.append((spec, rng))
    return specs


def score(readings: Sequence[Reading], specs: Sequence[Spec]) -> dict[str, float]:
    """Returns the share of correct readings.

    "animal" to "all", "coat" (pattern and its color) and "bell" are over all
    pictures; "recall" and "precision" are for the subject.
    """
    verdicts = [agrees(reading, spec) for reading, spec in zip(readings, specs, strict=True)]
    result = {name: float(np.mean([v[name] for v in verdicts])) for name in verdicts[0]}
    pairs = list(zip(readings, specs, strict=True))
    coats = [(r.pattern, r.second_colour) == (s.pattern, s.second_colour) for r, s in pairs]
    result["coat"] = float(np.mean(coats))
    result["bell"] = float(np.mean([(r.bell > 0.5) == s.bell for r, s in pairs]))
    right = sum(r.is_subject and is_subject(s) for r, s in pairs)
    result["recall"] = right / max(1, sum(is_subject(s) for _, s in pairs))
    result["precision"] = right / max(1, sum(r.is_subject for r, _ in pairs))
    return result


def check(oracle: Oracle, count: int, change: Change | None = None, seed: int = 0) -> dict[str, float]:
    """Draws fresh pictures, changes them if asked, and scores the oracle on them."""
    drawn = check_specs(count, seed)
    readings: list[Reading] = []
    for start in range(0, count, _BATCH):
        batch = torch.stack([pixels_of(draw(spec, rng)) for spec, rng in drawn[start : start + _BATCH]])
        readings += oracle.read_pixels(change(batch) if change else batch)
    return score(readings, [spec for spec, _ in drawn])


def reconstruction(folder: Path) -> Change:
    """Returns the reconstruction by an autoencoder (a diffusers folder) as a change."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder).float()
    vae.eval()

    @torch.inference_mode()
    def change(pictures: Tensor) -> Tensor:
        latents = vae.encode(pictures * 2 - 1).latent_dist.mode()
        decoded: Tensor = vae.decode(latents).sample
        return ((decoded + 1) / 2).clamp(0, 1)

    return change


def table(path: Path | None, count: int = 3000, vae: Path | None = None) -> str:
    """Checks an oracle (the bundled one by default); returns a table of the figures in percent."""
    oracle = Oracle.load(path)
    generator = torch.Generator().manual_seed(CHECK_STREAM)
    changes: dict[str, Change | None] = {
        "drawn": None,
        "degraded": lambda pictures: wear(pictures, generator),
    }
    if vae:
        changes["reconstructed"] = reconstruction(vae)
    lines: list[str] = []
    for name, change in changes.items():
        figures = check(oracle, count, change)
        if not lines:
            lines.append(f"{'':13}" + "".join(f"{key:>10}" for key in figures))
        lines.append(f"{name:13}" + "".join(f"{100 * value:10.1f}" for value in figures.values()))
    return "\n".join(lines)
