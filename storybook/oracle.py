"""The oracle: reads a picture of the storybook world and says what it shows.

The model's samples are measured with it, so it never sees prompts or
captions: a small convolutional network looks at the pixels alone.
:mod:`storybook.oracle_training` trains and checks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from storybook.networks import Reader, convolution
from storybook.world import ANIMALS, COLOURS, PATTERNS, SCENES, Spec

SIZE = 64
"""Side in pixels of the pictures that the network reads."""

COATS: tuple[tuple[str | None, str | None], ...] = (
    (None, None),
    *((pattern, colour) for pattern in PATTERNS for colour in COLOURS),
)
"""Possible coats as (pattern, second color); the first is plain."""

HATS: tuple[str | None, ...] = (None, *COLOURS)

HEADS: dict[str, int] = {
    "animal": len(ANIMALS),
    "colour": len(COLOURS),
    "hat": len(HATS),
    "scene": len(SCENES),
    "coat": len(COATS),
    "bell": 1,
    "subject": 1,
}
"""The questions, and how many answers each has; 1 means yes or no."""

_WIDTHS = (32, 64, 96, 128)
_HIDDEN = 48
_BATCH = 128


@dataclass(frozen=True)
class Reading:
    """What the oracle sees in one picture.

    Attributes:
        animal: One of :data:`~storybook.world.ANIMALS`.
        colour: Main color of the coat.
        hat: Color of the hat, or None for no hat.
        scene: One of :data:`~storybook.world.SCENES`.
        subject: Probability that this is the subject "mycat", bell or not.
        pattern: "stripes", "spots" or None.
        second_colour: Color of the pattern, or None.
        bell: Probability that there is a bell.
        confidences: For each of "animal", "colour", "hat", "scene" and "coat"
            (pattern and second color in one), the probability of the answer.
    """

    animal: str
    colour: str
    hat: str | None
    scene: str
    subject: float
    pattern: str | None
    second_colour: str | None
    bell: float
    confidences: dict[str, float]

    @property
    def is_subject(self) -> bool:
        """Whether this is more likely than not the subject."""
        return self.subject > 0.5


def agrees(reading: Reading, spec: Spec) -> dict[str, bool]:
    """Which parts of a spec a reading confirms.

    Returns:
        Whether "animal", "colour", "hat" and "scene" are each as specified,
        and under "all" whether all four are.
    """
    parts = {
        "animal": reading.animal == spec.animal,
        "colour": reading.colour == spec.colour,
        "hat": reading.hat == spec.hat,
        "scene": reading.scene == spec.scene,
    }
    return {**parts, "all": all(parts.values())}


class OracleNetwork(nn.Module):
    """Convolutions over the picture, then a head with its own attention for each question.

    Each head has its own attention map over the last 8 x 8 features, since
    a hat is in one place and a scene is everywhere.
    """

    def __init__(self) -> None:
        """Builds the network, initialized with the global random generator."""
        super().__init__()
        a, b, c, d = _WIDTHS
        self.features = nn.Sequential(
            nn.PixelUnshuffle(2),
            convolution(12, a),
            convolution(a, b, stride=2),
            convolution(b, b),
            convolution(b, c, stride=2),
            convolution(c, c),
            convolution(c, d),
        )
        self.look = nn.Conv2d(d, len(HEADS), 1)
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(d, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, count))
                for name, count in HEADS.items()
            }
        )

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Reads pictures.

        Args:
            pictures: [B, 3, 64, 64], RGB between 0 and 1.

        Returns:
            For each head, its logits: [B, answers].
        """
        seen = self.features(pictures * 4 - 2)
        weights = self.look(seen).flatten(2).float().softmax(dim=-1).to(seen.dtype)
        pooled = torch.einsum("bhn,bcn->bhc", weights, seen.flatten(2))
        return {name: head(pooled[:, i]) for i, (name, head) in enumerate(self.heads.items())}


class Oracle(Reader):
    """Reads pictures of the storybook world with a trained network, on the CPU."""

    name, make = "oracle", OracleNetwork

    def read(self, images: Sequence[Image.Image]) -> list[Reading]:
        """Reads pictures of any size and mode; other sizes are resized to 64 pixels."""
        readings: list[Reading] = []
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            readings += self.read_pixels(torch.stack([pixels_of(image) for image in batch]))
        return readings

    @torch.inference_mode()
    def read_pixels(self, pictures: Tensor) -> list[Reading]:
        """Reads a batch of pictures, [B, 3, 64, 64] between 0 and 1."""
        logits = {name: t.float() for name, t in self.network(pictures.float()).items()}
        yes = {name: logits[name].sigmoid().flatten().tolist() for name in ("subject", "bell")}
        best = {
            name: logits[name].softmax(dim=-1).max(dim=-1)
            for name in ("animal", "colour", "hat", "scene", "coat")
        }
        return [
            _reading(
                {name: int(most.indices[i]) for name, most in best.items()},
                {name: float(most.values[i]) for name, most in best.items()},
                {name: values[i] for name, values in yes.items()},
            )
            for i in range(len(pictures))
        ]


def _reading(answers: dict[str, int], confidences: dict[str, float], yes: dict[str, float]) -> Reading:
    pattern, second_colour = COATS[answers["coat"]]
    return Reading(
        animal=ANIMALS[answers["animal"]],
        colour=COLOURS[answers["colour"]],
        hat=HATS[answers["hat"]],
        scene=SCENES[answers["scene"]],
        subject=yes["subject"],
        pattern=pattern,
        second_colour=second_colour,
        bell=yes["bell"],
        confidences=confidences,
    )


def pixels_of(image: Image.Image) -> Tensor:
    """A picture of any size and mode as the network's input: `[3, 64, 64]` in [0, 1]."""
    image = image.convert("RGB")
    if image.size != (SIZE, SIZE):
        # The world's own pictures are box-averaged from finer ones.
        shrinks = min(image.size) >= SIZE
        image = image.resize((SIZE, SIZE), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
