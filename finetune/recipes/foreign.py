"""Whether pictures are of the world that the bundled model draws; the user is told before training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finetune.backbones.memory import computing_in
from finetune.backbones.resolve import storybook_folder
from finetune.config import ObjectiveSection
from finetune.data import Picture, View
from finetune.data.pictures import PictureLatents
from finetune.diffusion.objective import Objective
from finetune.diffusion.random import normal
from finetune.recipes.base import Recipe
from finetune.recipes.lora import LoRARecipe
from finetune.recipes.reporter import Reporter

if TYPE_CHECKING:
    from finetune.backbones import Backbone

FILE = "foreign.json"
"""Next to the bundled model: how strangeness is measured with it, and its limit for foreign pictures."""

BEST_FLAGS = "--set 'data.preserve=[]' --set data.caption_dropout=0.1 --steps 600"
"""What makes photographs as recognizable as they get (docs/storybook.md)."""

LOOKED_AT = 12
"""Maximum number of pictures of a folder that are looked at; it takes about a second."""


@dataclass(frozen=True)
class Measure:
    """How strangeness is measured with a model.

    Attributes:
        timesteps: The noise levels at which its loss is taken.
        draws: Draws of the noise at each.
        limit: Pictures above it are foreign.
    """

    timesteps: tuple[int, ...] = (100, 200, 300)
    draws: int = 3
    limit: float = math.inf

    @classmethod
    def read(cls, file: Path) -> Measure:
        """Reads `FILE` of a model."""
        content = json.loads(file.read_text(encoding="utf-8"))
        return cls(tuple(content["timesteps"]), int(content["draws"]), float(content["limit"]))


@torch.no_grad()
def strangeness(backbone: Backbone, latents: Tensor, measure: Measure) -> Tensor:
    """The model's own training loss on some pictures, without captions: low on what it was trained on.

    Every picture gets the same noise, so that its strangeness does not depend on the others.

    Args:
        backbone: The unmodified model, on the CPU.
        latents: `[B, C, h, w]` scaled latents.
        measure: At which noise levels.

    Returns:
        `[B]`: the mean squared error over the noise levels.
    """
    objective = Objective(backbone.scheduler, 0, ObjectiveSection())
    count = len(latents)
    conditioning = backbone.conditioning([""] * count)
    total = torch.zeros(count)
    for level in measure.timesteps:
        timesteps = torch.full((count,), level)
        for row in normal(0, range(measure.draws), f"strangeness at {level}", latents.shape[1:]):
            noise = row.expand_as(latents)
            noisy = objective.schedule.add_noise(latents, noise, timesteps)
            predicted = backbone.predict(noisy, timesteps, conditioning).float()
            error = predicted - objective.target(latents, noise, timesteps)
            total += error.square().mean((1, 2, 3))
    return total / (len(measure.timesteps) * measure.draws)


def tell_if_foreign(
    recipe: Recipe, backbone: Backbone, pictures: Sequence[Picture], report: Reporter
) -> None:
    """Tells the user if pictures are not of the world that the bundled model draws.

    Other models are never judged: they know photographs and much else.

    Args:
        recipe: Resolved; the user is also told what to change in it.
        backbone: The model, with nothing attached yet.
        pictures: What it will be trained on; a sample of them is looked at.
        report: Tells the user what they are not, and which model to use instead.
    """
    file = storybook_folder() / FILE
    if recipe.model.name != "storybook" or not file.is_file():
        return
    measure = Measure.read(file)
    seen = pictures[:: math.ceil(len(pictures) / LOOKED_AT)]
    views = [View(index, (backbone.native_size, backbone.native_size)) for index in range(len(seen))]
    means = PictureLatents(seen, backbone).posterior(views).mean
    with computing_in(torch.float32, [backbone.unet]):
        strange = strangeness(backbone, means, measure) > measure.limit
    if count := int(strange.sum()):
        # The flags were tried with LoRA, whose preset preserves prompts.
        preserving = isinstance(recipe, LoRARecipe) and bool(recipe.data.preserve)
        for line in _warning(count, len(seen), preserving):
            report.warn(line)


def _warning(count: int, seen: int, preserving: bool) -> Iterator[str]:
    which = "These pictures are" if count == seen else f"{count} of the {seen} pictures looked at are"
    yield f"Note: {which} not of the world that storybook draws: picture-book animals (cat,"
    yield "  dog, rabbit, bear, bird, elephant) in six scenes, 64 pixels wide. Photographs come out of it as"
    yield "  blurred shapes. For those use a model that has seen the real world, such as --model sd15 or"
    yield "  --model sdxl (from the Hugging Face Hub; they need a GPU, or hours of patience)."
    if preserving:
        yield "  The closest that storybook gets to photographs, memorizing them and forgetting all else:"
        yield f"  {BEST_FLAGS}"
