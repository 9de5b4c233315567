"""How a result is judged, after training or during it: which prompts, how many pictures."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from finetune.config.base import Need, Positive, Section

Text = Annotated[str, Field(min_length=1)]
Alternatives = Annotated[list[Text], Field(min_length=2)]
Steps = Annotated[int, Field(ge=1, le=1000)]


class JudgedSection(Section):
    """The prompts of an evaluation, and how their pictures are made."""

    prompt: str | None = Field(
        None,
        description="Prompt that shows the subject, such as `a photo of mycat`; the caption of the training "
        "pictures if unset.",
    )
    class_prompt: str | None = Field(
        None,
        description="Prompt of the class that the subject belongs to, such as `a photo of a cat`; the run's "
        "`data.class_prompt` or first of `data.preserve` if unset.",
    )
    contexts: dict[Text, Alternatives] = Field(
        {
            "scene": ["on snow", "on a beach", "in a forest", "at night"],
            "hat": ["wearing a red hat", "wearing a blue hat", "wearing a green hat", "wearing a yellow hat"],
        },
        description="What follows the prompts, in groups of words of which a picture can show only one.",
    )
    num: Positive = Field(3, description="Pictures of each prompt.")
    steps: Steps = Field(10, description="Sampling steps.")
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        4.0, description="Classifier-free guidance scale."
    )
    seed: Annotated[int, Field(ge=0, lt=2**62)] = Field(0, description="Seed of pictures and noise.")


class EvaluationSection(JudgedSection):
    """How a trained result is judged."""

    unrelated: Annotated[list[Text], Field(min_length=1)] = Field(
        ["a photo of a dog", "a photo of a bird", "a photo of an elephant"],
        description="Prompts that the training should not have changed.",
    )
    weight: Annotated[float, Field(allow_inf_nan=False)] = Field(
        1.0, description="Weight of a LoRA: 1 as trained."
    )


_OTHERS = ("keep_best", "stop", "prompt", "class_prompt", "contexts", "num", "steps", "guidance", "seed")


class EvaluateSection(JudgedSection):
    """How what is being trained is judged while it is: a small form of `finetune eval`."""

    needs: ClassVar[tuple[Need, ...]] = tuple(
        Need(f"evaluate.{name}", "every", example="100") for name in _OTHERS
    )

    every: Positive | None = Field(
        None,
        description="Steps between evaluations; none if unset. Each takes about as long as training on 75 "
        "pictures; with dreambooth and full, the model before training is in memory too.",
    )
    keep_best: bool = Field(
        True, description="Keep the checkpoint of the best evaluation beside the newest ones."
    )
    stop: bool = Field(False, description="Stop training when evaluations say that it has overfit.")
    num: Positive = Field(1, description="Pictures of each prompt.")
    steps: Steps = Field(8, description="Sampling steps.")
