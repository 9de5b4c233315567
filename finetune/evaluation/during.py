"""A small form of the evaluation, for a model that is still being trained.

What needs the base model alone is done once; each time after that, only one picture of each prompt is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.config.evaluation import EvaluateSection
from finetune.evaluation.baseline import make, shown
from finetune.evaluation.details import Details
from finetune.evaluation.drift import SHARES, Before, short
from finetune.evaluation.judge import Judge
from finetune.evaluation.known import Known
from finetune.evaluation.plan import Plan
from finetune.evaluation.prompt import SHARES as PROMPT_SHARES
from finetune.evaluation.score import score
from finetune.evaluation.subject import Likeness, nearest
from finetune.sampling import Sampler

_MOST = 8
"""Training pictures whose details are looked for; these, and held-out ones, whose loss is computed."""


def forward_passes(settings: EvaluateSection, training: int, held: int) -> int:
    """How many pictures an evaluation sends through the UNet, each time a picture is counted.

    Args:
        settings: Which prompts, how many pictures.
        training: Number of training pictures.
        held: Number of held-out pictures.
    """
    groups = [len(texts) * settings.num for texts in settings.contexts.values()]
    sampled = sum(groups) * settings.steps * (2 if settings.guidance != 1 else 1)
    told_apart = sum(len(texts) ** 2 * settings.num for texts in settings.contexts.values())
    compared = sum(groups) + min(training, _MOST) + min(held, _MOST)
    return sampled + sum(groups) + told_apart * len(PROMPT_SHARES) + compared * len(SHARES)


@dataclass(frozen=True)
class Start:
    """What the base model makes of prompts and pictures, before anything is learned.

    Attributes:
        plan: The prompts.
        settings: How pictures are made.
        training: The pictures that are trained on.
        likeness: How much like them others are.
        details: How many of their details others have.
        shown: For each group of words, the share of the base model's pictures of the class that show theirs.
        on_class: Its predictions of these pictures.
        on_training: Of training pictures.
        on_held: Of held-out pictures, if there are any.
    """

    plan: Plan
    settings: EvaluateSection
    training: Known
    likeness: Likeness
    details: Details
    shown: dict[str, float]
    on_class: Before
    on_training: Before
    on_held: Before | None

    @classmethod
    def of(
        cls,
        sampler: Sampler,
        judge: Judge,
        plan: Plan,
        settings: EvaluateSection,
        training: Known,
        held: Known | None,
    ) -> Start:
        """Asks the base model.

        Args:
            sampler: The base model.
            judge: The same.
            plan: The prompts.
            settings: How pictures are made.
            training: The pictures that are trained on.
            held: Those that are not, if there are any.
        """
        prompts = plan.prompts(plan.class_prompt)
        made = make(sampler, judge, prompts, plan.seeds, settings)
        features = judge.features(training.latents)
        return cls(
            plan,
            settings,
            training,
            Likeness.between(made.features, features),
            Details.between(made.features, features[:_MOST]),
            shown(judge, plan, made.latents),
            Before.training(judge, made.latents, prompts),
            _on(judge, training),
            None if held is None else _on(judge, held),
        )

    def look(self, sampler: Sampler, trained: Judge, base: Judge) -> dict[str, float]:
        """Evaluates the model as it is now; a function of its weights, the pictures and the seed (P1).

        Args:
            sampler: The model in training.
            trained: The same.
            base: The base model, of the same seed.

        Returns:
            The figures of a line of `evaluation.jsonl`, by name; the last is the score of all.
        """
        plan, known, settings = self.plan, self.training, self.settings
        subject = make(sampler, base, plan.prompts(plan.prompt), plan.seeds, settings)
        words = shown(base, plan, subject.latents)
        near = nearest(subject.latents, known.latents, known.mirrored, self.on_class.latents)
        figures = {
            "likeness": float(self.likeness(subject.features).mean()),
            "details": float(self.details(subject.features).mean()),
            **{f"prompt_{group}": share for group, share in words.items()},
            "class_changed": self.on_class.compared(trained).changed,
            "copies": float(near.copies.float().mean()),
            "training_loss": _mean(self.on_training.compared(trained).trained),
        }
        if self.on_held is not None:
            figures["held_out_loss"] = _mean(self.on_held.compared(trained).trained)
        figures["score"] = score(figures, self.shown)
        return {name: short(value) for name, value in figures.items()}


def _on(judge: Judge, known: Known) -> Before:
    return Before.training(judge, known.latents[:_MOST], known.captions[:_MOST])


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)
