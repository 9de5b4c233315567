"""Trains the oracle on drawn pictures, and checks it on other ones.

```
python -m storybook.oracle_training --out oracle.safetensors
python -m storybook.oracle_training --check [--out oracle.safetensors] [--vae FOLDER]
```
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from storybook.drawing import draw
from storybook.network_training import AfterStep, progress_printer, train_network
from storybook.networks import save_network
from storybook.oracle import COATS, HATS, HEADS, SIZE, OracleNetwork
from storybook.oracle_wear import wear
from storybook.textures import draw_texture
from storybook.world import (
    ANIMALS,
    COLOURS,
    PATTERNS,
    SCENES,
    SUBJECT,
    Spec,
    is_subject,
    near_miss,
)

TRAINING_STREAM = 0
"""Number of the random stream that training pictures are drawn from; checks use others."""

_UNKNOWN = -100  # A label that the loss ignores.
_BATCH = 96


@dataclass(frozen=True)
class Pictures:
    """Drawn pictures and their labels.

    Attributes:
        pixels: [N, 3, 64, 64] uint8.
        labels: For each head, [N] int64; -100 where the question does not apply.
    """

    pixels: Tensor
    labels: dict[str, Tensor]


def any_spec(rng: np.random.Generator) -> Spec:
    """Draws a spec whose parts are independent of each other.

    Unlike the world that the model learns, nothing is held out, the subject is
    common, and a hat may have the color of the coat, since samples can have
    such errors. The oracle must look instead of relying on correlations.
    """

    def pick(*choices: str) -> str:
        return choices[int(rng.integers(len(choices)))]

    hat = pick(*COLOURS) if rng.random() < 0.5 else None
    kind = rng.random()
    if kind < 0.12:
        return replace(SUBJECT, scene=pick(*SCENES), hat=hat, bell=bool(rng.random() < 0.6))
    if kind < 0.27:
        return replace(near_miss(rng), hat=hat)
    colour = pick(*COLOURS)
    pattern = second = None
    if rng.random() < 0.4:
        pattern, second = pick(*PATTERNS), pick(*(c for c in COLOURS if c != colour))
    bell = bool(rng.random() < 0.3)
    return Spec(pick(*ANIMALS), colour, pick(*SCENES), hat, pattern, second, bell)


def labels_of(spec: Spec) -> dict[str, int]:
    """Returns the right answer of every head."""
    return {
        "animal": ANIMALS.index(spec.animal),
        "colour": COLOURS.index(spec.colour),
        "hat": HATS.index(spec.hat),
        "scene": SCENES.index(spec.scene),
        "coat": COATS.index((spec.pattern, spec.second_colour)),
        "bell": int(spec.bell),
        "subject": int(is_subject(spec)),
    }


def draw_pictures(count: int, seed: int) -> Pictures:
    """Draws pictures to train on; one in thirty is a texture, labeled as not the subject."""
    pixels = np.empty((count, 3, SIZE, SIZE), dtype=np.uint8)
    rows: list[dict[str, int]] = []
    for i in range(count):
        rng = np.random.default_rng([seed, TRAINING_STREAM, i])
        if rng.random() < 1 / 30:
            picture, row = draw_texture(rng), {**dict.fromkeys(HEADS, _UNKNOWN), "subject": 0}
        else:
            spec = any_spec(rng)
            picture, row = draw(spec, rng), labels_of(spec)
        pixels[i] = np.asarray(picture).transpose(2, 0, 1)
        rows.append(row)
    labels = {name: torch.tensor([row[name] for row in rows]) for name in HEADS}
    return Pictures(torch.from_numpy(pixels), labels)


def loss_of(logits: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """The sum of the cross-entropies of all heads."""
    losses = []
    for name, count in HEADS.items():
        given, wanted = logits[name].float(), labels[name]
        if count > 1:
            losses.append(F.cross_entropy(given, wanted, ignore_index=_UNKNOWN))
        else:
            known = wanted != _UNKNOWN
            losses.append(F.binary_cross_entropy_with_logits(given[known, 0], wanted[known].float()))
    return torch.stack(losses).sum()


def train_oracle(
    out: Path,
    seed: int = 0,
    steps: int = 1500,
    progress: AfterStep | None = None,
    pictures: int = 30_000,
) -> OracleNetwork:
    """Trains an oracle and writes it as fp16 safetensors.

    Args:
        out: The file to write.
        seed: Seed of the pictures, the initial weights and the order; with one
            thread the same seed gives the same oracle on the same machine.
        steps: Steps of 96 pictures each.
        progress: Called after every step.
        pictures: How many to draw; they are used again and again, worn off
            differently each time.

    Returns:
        The trained network.
    """
    network = train_network(
        OracleNetwork,
        _batches(draw_pictures(pictures, seed), torch.Generator().manual_seed(seed)),
        loss_of,
        seed=seed,
        steps=steps,
        warmup_steps=max(1, steps // 20),
        max_grad_norm=2.0,
        after_step=progress,
    )
    save_network(network, out)
    return network


def _batches(data: Pictures, generator: torch.Generator) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Degraded pictures with their labels, endlessly, in a new random order each epoch."""
    order = torch.empty(0, dtype=torch.int64)
    while True:
        if len(order) < _BATCH:
            order = torch.cat([order, torch.randperm(len(data.pixels), generator=generator)])
        chosen, order = order[:_BATCH], order[_BATCH:]
        labels = {name: labels[chosen] for name, labels in data.labels.items()}
        yield wear(data.pixels[chosen].float() / 255, generator), labels


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    # Only the command needs the checks, which import diffusers for the autoencoder.
    from storybook.oracle_checks import table

    parser = argparse.ArgumentParser(description="Train or check the storybook's oracle.")
    parser.add_argument("--out", type=Path, help="the oracle's file (--check: default the bundled one)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--pictures", type=int, default=30_000, help="drawn pictures to train on")
    parser.add_argument("--check", action="store_true", help="print how often an oracle is right")
    parser.add_argument("--vae", type=Path, help="also check on reconstructions by this autoencoder")
    parser.add_argument("--count", type=int, default=3000, help="pictures to check on")
    given = parser.parse_args(arguments)
    if not given.check:
        if given.out is None:
            parser.error("training requires --out, the file to write")
        train_oracle(given.out, given.seed, given.steps, progress_printer(), given.pictures)
    print(table(given.out, given.count, given.vae))


if __name__ == "__main__":
    main()
