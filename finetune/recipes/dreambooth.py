"""The DreamBooth recipe: a subject taught to the whole UNet, its class kept as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from finetune.config import SubjectSection
from finetune.config.base import Fault
from finetune.recipes.subject import SubjectRecipe
from finetune.recipes.whole_model import WholeModelRecipe


class DreamBoothRecipe(WholeModelRecipe, SubjectRecipe):
    """Full fine-tuning with prior preservation (Ruiz et al. 2022, arXiv:2208.12242)."""

    kind: Literal["dreambooth"] = "dreambooth"
    data: SubjectSection = SubjectSection()  # pydantic would take the first parent's

    def faults(self) -> Iterator[Fault]:
        """As those of its parents, and what needs the untrained weights besides the trained ones."""
        yield from super().faults()
        if self.data.preserve:
            yield Fault(
                "Only an adapter that can be switched off can preserve prompts.", "data.preserve",
                "Name the class with --class-prompt instead, or train a LoRA.",
            )  # fmt: skip
