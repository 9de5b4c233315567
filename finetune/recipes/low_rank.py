"""What the recipes that train a LoRA share: the adapter, and the files they leave."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from finetune.config import LoRASection
from finetune.config.base import Fault
from finetune.recipes.base import Recipe
from finetune.recipes.words import write_word

if TYPE_CHECKING:
    from finetune.adapters.base import Adapter
    from finetune.backbones import Backbone


class LowRankRecipe(Recipe):
    """Trains low-rank adapters (Hu et al. 2021, arXiv:2106.09685), and writes them in both layouts."""

    finished_by: ClassVar[str] = "pytorch_lora_weights.safetensors"

    adapter: LoRASection = LoRASection()

    @property
    def trains_text(self) -> bool:
        """Whether the text encoders get an adapter too."""
        return self.adapter.text_encoder

    @property
    def learns_word(self) -> bool:
        """Whether a new word is learned too."""
        return self.adapter.placeholder is not None

    def faults(self) -> Iterator[Fault]:
        """As `Recipe.faults`, and dropout that cannot be compiled or would be another sample's."""
        yield from super().faults()
        if self.training.compile and self.adapter.dropout:
            yield Fault(
                "Dropout draws a mask for each sample, which cannot be compiled.",
                "training.compile",
                "Leave it out, or set adapter.dropout=0.",
            )
        shapes = self.data.buckets or self.data.extra_resolutions
        again = self.optimizer.in_backward and self.training.gradient_checkpointing
        # All shapes have one backward pass then, and layers computed again know the last one's samples only.
        if again and shapes and self.adapter.dropout:
            yield Fault(
                "Dropout, gradient checkpointing and steps inside the backward pass do not go together with "
                "pictures of several shapes.",
                "optimizer.in_backward",
                "Set optimizer.in_backward, training.gradient_checkpointing or data.buckets to false.",
            )

    def notes(self) -> Iterator[str]:
        """Which programs do not apply a DoRA as it was trained."""
        if self.adapter.dora:
            yield (
                "DoRA: A1111 and Forge compute it differently, so their pictures are not what was trained; "
                "for them, convert the result to a plain LoRA: `finetune export RUN --to plain-lora -o FILE`."
            )

    def make_adapter(self, backbone: Backbone) -> Adapter:
        """The low-rank layers, attached to `backbone`; their initial weights depend on the seed alone."""
        from finetune.adapters.lora import LoRA

        return LoRA(backbone, self.adapter, seed=self.training.seed)

    def sample_flags(self, folder: Path) -> str:
        """The run folder as a LoRA."""
        return f"--lora {shlex.quote(str(folder))}"

    def write_results(
        self, adapter: Adapter, backbone: Backbone, folder: Path, name: str, metadata: dict[str, str]
    ) -> dict[Path, str]:
        """Both layouts of the LoRA, kohya's key names and diffusers', and those of a new word."""
        from finetune.adapters import LoRA
        from finetune.formats import write_diffusers, write_kohya

        assert isinstance(adapter, LoRA)
        kohya, diffusers = folder / f"{name}.safetensors", folder / self.finished_by
        word = adapter.word()
        words: dict[Path, str] = {}
        if word is not None:
            stem = re.sub(r"[^\w-]+", "", word.text)
            words = write_word(folder, stem if stem != name else f"{stem}-word", word, metadata)
        write_kohya(kohya, adapter, metadata)
        loads = write_diffusers(diffusers, adapter, metadata)  # last: it marks the run as finished
        purpose = "for A1111, Forge, ComfyUI, InvokeAI"
        if self.adapter.dora:
            purpose = "for ComfyUI (A1111, Forge: finetune export RUN --to plain-lora -o FILE)"
        if word is not None:
            purpose += "; Forge needs the word's own file as well"
        return {
            kohya: purpose,
            diffusers: "for diffusers and finetune sample"
            if loads
            else "for finetune sample; for diffusers, make a model with finetune export --to merged",
            **words,
        }
