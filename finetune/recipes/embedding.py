"""The textual-inversion recipe: a new word for a subject or a style, in a file of a few kilobytes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config import EmbeddingSection
from finetune.recipes.reporter import SILENT, Reporter
from finetune.recipes.subject import SubjectRecipe
from finetune.recipes.words import scan_for, write_word

if TYPE_CHECKING:
    from finetune.adapters.base import Adapter
    from finetune.backbones import Backbone
    from finetune.data import Folder


class EmbeddingRecipe(SubjectRecipe):
    """Learns the token embeddings of a new word (Gal et al. 2022, arXiv:2208.01618), nothing else."""

    finished_by: ClassVar[str] = "learned_embeds.safetensors"

    kind: Literal["embedding"] = "embedding"
    adapter: EmbeddingSection = EmbeddingSection()

    @property
    def word(self) -> str:
        """The new word: the placeholder, or the folder's name in brackets."""
        return self.adapter.placeholder or f"<{self.subject.lower().replace('.', '-')}>"

    def fill_in(self, values: dict[str, Any], backbone: Backbone) -> None:
        """As `SubjectRecipe.fill_in`, and the word."""
        super().fill_in(values, backbone)
        values["adapter"]["placeholder"] = self.word

    def scan(self, report: Reporter = SILENT) -> Folder:
        """Reads the pictures; those without a caption get the instance prompt, or "a photo of" the word."""
        with self.reader(report) as reader:
            return scan_for(self.main_folder, self.word, self.data, reader)

    def make_adapter(self, backbone: Backbone) -> Adapter:
        """The word, added to `backbone`; a random start depends on the seed alone."""
        from finetune.adapters import TextualInversion

        return TextualInversion(backbone, self.adapter, seed=self.training.seed)

    def sample_flags(self, folder: Path) -> str:
        """The run folder as an embedding."""
        return f"--embedding {shlex.quote(str(folder))}"

    def write_results(
        self, adapter: Adapter, backbone: Backbone, folder: Path, name: str, metadata: dict[str, str]
    ) -> dict[Path, str]:
        """Both layouts of the word."""
        from finetune.adapters import TextualInversion

        assert isinstance(adapter, TextualInversion)
        return write_word(folder, name, adapter.word(), metadata)
