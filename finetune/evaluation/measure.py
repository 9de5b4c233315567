"""Measures what a trained model has learned, and what it has forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from finetune.evaluation.baseline import Baseline, Made, Progress, make, shown
from finetune.evaluation.drift import SHARES, Compared, compare, frechet, short
from finetune.evaluation.judge import Judge
from finetune.evaluation.known import Known
from finetune.evaluation.subject import SUBJECT, Nearest, nearest
from finetune.sampling import Sampler

_DRAWS = 4
"""Of the noise on training pictures, which are often few."""


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        baseline: What it is measured against.
        subject: Pictures of the subject by the trained model.
        of_class: Pictures of its class by the trained model.
        likeness: `[B]` of the pictures of the subject: 0 as any of the class, 1 as the training pictures.
        leak: `[B]` of the pictures of the class, likewise.
        shown: For each group of words, the share of the subject's pictures that show theirs.
        spread: Fréchet distance of the pictures of the class from the base model's.
        class_drift: The models on the base model's pictures of the class.
        other_drift: On its unrelated pictures.
        on_training: On the training pictures.
        on_held: On held-out pictures, if there are any.
        nearest: The training picture that is nearest to each picture of the subject.
    """

    baseline: Baseline
    subject: Made
    of_class: Made
    likeness: Tensor
    leak: Tensor
    shown: dict[str, float]
    spread: float
    class_drift: Compared
    other_drift: Compared
    on_training: Compared
    on_held: Compared | None
    nearest: Nearest

    @property
    def leak_share(self) -> float:
        """Share of the class's pictures that show the subject."""
        return float((self.leak > SUBJECT).float().mean())

    @property
    def copied_share(self) -> float:
        """Share of the subject's pictures that copy a training picture."""
        return float(self.nearest.copies.float().mean())

    def plain(self) -> dict[str, Any]:
        """All figures as plain values, for JSON."""
        names = self.baseline.training.names
        closest = int(self.nearest.ratio.argmin())
        return {
            "subject": {"likeness": short(float(self.likeness.mean()))},
            "prompt": {
                group: {"trained": short(share), "base": short(self.baseline.shown[group])}
                for group, share in self.shown.items()
            },
            "class": {
                "likeness": short(float(self.leak.mean())),
                "share": short(self.leak_share),
                "frechet": short(self.spread),
                **self.class_drift.plain(),
            },
            "unrelated": self.other_drift.plain(),
            "memorization": {
                "copies": short(self.copied_share),
                "nearest": short(float(self.nearest.ratio[closest])),
                "picture": names[int(self.nearest.index[closest])],
            },
            "loss": {
                "levels": list(SHARES),
                "training": self.on_training.plain(),
                "held_out": None if self.on_held is None else self.on_held.plain(),
            },
        }


def measure(
    baseline: Baseline, base: Judge, sampler: Sampler, trained: Judge, progress: Progress | None = None
) -> Report:
    """Measures a trained model; a function of the models, the pictures and the seed (P1).

    Args:
        baseline: What it is measured against.
        base: The base model.
        sampler: The trained model.
        trained: The same.
        progress: Called after every sampling step of the subject's pictures.
    """
    plan, settings = baseline.plan, baseline.settings
    subject = make(sampler, base, plan.prompts(plan.prompt), plan.seeds, settings, progress)
    of_class = make(sampler, base, plan.prompts(plan.class_prompt), plan.seeds, settings)
    own = baseline.likeness
    known, before = baseline.training, baseline.of_class
    return Report(
        baseline=baseline,
        subject=subject,
        of_class=of_class,
        likeness=own(subject.features),
        leak=own(of_class.features),
        shown=shown(base, plan, subject.latents),
        spread=frechet(of_class.features, before.features, own.spread),
        class_drift=compare(base, trained, before.latents, plan.prompts(plan.class_prompt)),
        other_drift=compare(base, trained, baseline.others.latents, [text for text, _ in plan.unrelated]),
        on_training=_on(base, trained, known),
        on_held=None if baseline.held is None else _on(base, trained, baseline.held),
        nearest=nearest(subject.latents, known.latents, known.mirrored, before.latents),
    )


def _on(base: Judge, trained: Judge, known: Known) -> Compared:
    return compare(base, trained, known.latents, known.captions, _DRAWS)
