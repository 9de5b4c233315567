"""What the base model makes of prompts and training pictures: what a result is measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.config.evaluation import JudgedSection
from finetune.data.preprocess import as_pixels
from finetune.evaluation.judge import Judge
from finetune.evaluation.known import Known
from finetune.evaluation.plan import Plan
from finetune.evaluation.prompt import classify
from finetune.evaluation.subject import Likeness
from finetune.sampling import Sampler

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Made:
    """Pictures that a model made.

    Attributes:
        images: The pictures.
        latents: `[B, C, h, w]`: as the base model's autoencoder sees them.
        features: `[B, D, h', w']` of the base model.
    """

    images: list[Image.Image]
    latents: Tensor
    features: Tensor


@dataclass(frozen=True)
class Baseline:
    """All that needs the base model alone.

    Attributes:
        plan: The prompts.
        settings: How pictures are made.
        training: The pictures that were trained on.
        held: Pictures that were held out, if there are any.
        of_class: Of the class prompts, by the base model.
        others: Of the unrelated prompts, by the base model.
        likeness: How much like the training pictures others are.
        shown: For each group of words, the share of the base model's pictures of the class that show theirs.
    """

    plan: Plan
    settings: JudgedSection
    training: Known
    held: Known | None
    of_class: Made
    others: Made
    likeness: Likeness
    shown: dict[str, float]


def make(
    sampler: Sampler,
    judge: Judge,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: JudgedSection,
    progress: Progress | None = None,
) -> Made:
    """Samples pictures and looks at them.

    Args:
        sampler: The model that makes them.
        judge: The base model, which looks at them.
        prompts: One for each.
        seeds: One for each.
        settings: Steps and guidance.
        progress: Called after every step with how many are done, and their total.
    """
    samples = sampler(
        prompts, seed=seeds, steps=settings.steps, guidance=settings.guidance, progress=progress
    )
    images = [sample.image for sample in samples]
    latents = encode(judge, images)
    return Made(images, latents, judge.features(latents))


def encode(judge: Judge, images: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as scaled latents: `[B, C, h, w]` fp32 on the CPU."""
    found = []
    for start in range(0, len(images), judge.at_once):
        levels = [torch.from_numpy(np.array(image)) for image in images[start : start + judge.at_once]]
        pixels = as_pixels(torch.stack(levels).permute(0, 3, 1, 2))
        found.append(judge.backbone.encode_pixels(pixels.to(judge.backbone.device))[0].float().cpu())
    return torch.cat(found)


def shown(judge: Judge, plan: Plan, latents: Tensor) -> dict[str, float]:
    """For each group of words, the share of pictures that show theirs and not another of the group.

    Args:
        judge: The base model.
        plan: The prompts.
        latents: `[B, C, h, w]` of one picture for each of `plan.asked`.
    """
    shares = {}
    for group, texts in plan.contexts.items():
        places = plan.of_group(group)
        right = torch.tensor([plan.asked[place].place for place in places])
        found = classify(judge, latents[places], [f"{plan.class_prompt} {text}" for text in texts])
        shares[group] = float((found == right).float().mean())
    return shares


def measure_base(
    sampler: Sampler,
    judge: Judge,
    plan: Plan,
    settings: JudgedSection,
    training: Known,
    held: Known | None = None,
    progress: Progress | None = None,
) -> Baseline:
    """Does all that needs the base model alone; it can serve for many results.

    Args:
        sampler: The base model.
        judge: The same.
        plan: The prompts.
        settings: How pictures are made.
        training: The pictures that were trained on.
        held: Pictures that were held out, if there are any.
        progress: As in `make`, of the class's pictures.
    """
    of_class = make(sampler, judge, plan.prompts(plan.class_prompt), plan.seeds, settings, progress)
    prompts, seeds = [text for text, _ in plan.unrelated], [seed for _, seed in plan.unrelated]
    others = make(sampler, judge, prompts, seeds, settings)
    likeness = Likeness.between(of_class.features, judge.features(training.latents))
    return Baseline(
        plan, settings, training, held, of_class, others, likeness, shown(judge, plan, of_class.latents)
    )
