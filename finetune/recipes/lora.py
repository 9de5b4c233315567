"""The LoRA recipe: a subject or a style from a few pictures, as a small file beside the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from finetune.config import SubjectSection
from finetune.recipes.low_rank import LowRankRecipe
from finetune.recipes.reporter import SILENT, Reporter
from finetune.recipes.subject import SubjectRecipe
from finetune.recipes.words import scan_for

if TYPE_CHECKING:
    from finetune.data import Folder


class LoRARecipe(LowRankRecipe, SubjectRecipe):
    """Trains a LoRA on captioned pictures of a subject or a style."""

    kind: Literal["lora"] = "lora"
    data: SubjectSection = SubjectSection()  # of two bases, pydantic takes a field from the first

    def scan(self, report: Reporter = SILENT) -> Folder:
        """As `SubjectRecipe.scan`; with a new word, the captions must contain it."""
        if self.adapter.placeholder is None:
            return super().scan(report)
        with self.reader(report) as reader:
            return scan_for(self.main_folder, self.adapter.placeholder, self.data, reader)
