"""How a result is judged: which prompts, how many pictures."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune.config.base import Positive, Section

Text = Annotated[str, Field(min_length=1)]
Alternatives = Annotated[list[Text], Field(min_length=2)]


class EvaluationSection(Section):
    """How a trained result is judged."""

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
    unrelated: Annotated[list[Text], Field(min_length=1)] = Field(
        ["a photo of a dog", "a photo of a bird", "a photo of an elephant"],
        description="Prompts that the training should not have changed.",
    )
    num: Positive = Field(3, description="Pictures of each prompt.")
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(10, description="Sampling steps.")
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        4.0, description="Classifier-free guidance scale."
    )
    seed: Annotated[int, Field(ge=0, lt=2**62)] = Field(0, description="Seed of pictures and noise.")
    weight: Annotated[float, Field(allow_inf_nan=False)] = Field(
        1.0, description="Weight of a LoRA: 1 as trained."
    )
