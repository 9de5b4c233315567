"""The full recipe: all weights of the UNet, on any number of captioned pictures."""

from __future__ import annotations

from typing import Literal

from finetune.config import CaptionedSection
from finetune.config.evaluation import EvaluateSection
from finetune.recipes.whole_model import WholeModelRecipe


class FullRecipe(WholeModelRecipe):
    """Captioned text-to-image training; the recipe that the bundled model was made with."""

    kind: Literal["full"] = "full"
    data: CaptionedSection = CaptionedSection()
    evaluate: EvaluateSection = EvaluateSection()
