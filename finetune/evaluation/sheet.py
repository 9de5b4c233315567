"""Pictures of the subject beside the training pictures that are nearest to them."""

from __future__ import annotations

from PIL import Image

from finetune.evaluation.measure import Report
from finetune.sampling.grid import grid

_ROWS = 12


def sheet(report: Report) -> Image.Image:
    """One row each: the subject, the nearest training picture, and the base model's picture of the class."""
    plan, training = report.baseline.plan, report.baseline.training
    images, labels = [], []
    for number in range(min(_ROWS, len(plan.asked))):
        index, ratio = int(report.nearest.index[number]), float(report.nearest.ratio[number])
        copied = "copies" if bool(report.nearest.copies[number]) else "nearest"
        images += [report.subject.images[number], training.images[index]]
        images += [report.baseline.of_class.images[number]]
        labels += [f"{plan.prompts(plan.prompt)[number]} (likeness {float(report.likeness[number]):.2f})"]
        labels += [f"{copied}: {training.names[index]} ({ratio:.2f})"]
        labels += [f"base model: {plan.prompts(plan.class_prompt)[number]}"]
    return grid(images, 6, labels)
