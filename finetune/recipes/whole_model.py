"""What the recipes that train all weights share: the adapter, and the model they leave."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from finetune.config import FullSection, ModelOutputSection
from finetune.config.base import Fault
from finetune.recipes.base import Recipe

if TYPE_CHECKING:
    from finetune.adapters.base import Adapter
    from finetune.backbones import Backbone

MODEL, ABOUT = "model", "finetune.json"


class WholeModelRecipe(Recipe):
    """Trains every weight of the UNet, and of the text encoders if asked to."""

    finished_by: ClassVar[str] = f"{MODEL}/{ABOUT}"
    carries_schedule: ClassVar[bool] = True

    adapter: FullSection = FullSection()
    output: ModelOutputSection = ModelOutputSection()

    @property
    def trains_text(self) -> bool:
        """Whether the text encoders are trained too."""
        return self.adapter.text_encoder

    def faults(self) -> Iterator[Fault]:
        """As `Recipe.faults`, rounded weights, and what a single file cannot store."""
        yield from super().faults()
        yield from self.model.unrounded("Rounded weights cannot be trained.")
        if self.output.single_file and self.objective.beta_schedule != "auto":
            yield Fault(
                "A single-file checkpoint cannot store another noise schedule.",
                "output.single_file",
                "Leave it out and use the folder model/, or leave objective.beta_schedule out.",
            )

    def make_adapter(self, backbone: Backbone) -> Adapter:
        """All weights of `backbone`."""
        from finetune.adapters.full import Full

        return Full(backbone, self.adapter)

    def sample_flags(self, folder: Path) -> str:
        """The model in the run folder."""
        return f"--model {shlex.quote(str(folder / MODEL))}"

    def write_results(
        self, adapter: Adapter, backbone: Backbone, folder: Path, name: str, metadata: dict[str, str]
    ) -> dict[Path, str]:
        """The model as a diffusers folder, and as one checkpoint file if asked for."""
        from finetune.backbones.original import is_published
        from finetune.backbones.precision import PRECISIONS
        from finetune.formats import write_checkpoint
        from finetune.formats.model_folder import write_model_folder

        dtype = PRECISIONS[self.output.weights]
        written: dict[Path, str] = {}
        if self.output.single_file:
            file = folder / f"{name}.safetensors"
            write_checkpoint(file, backbone, metadata, dtype)
            standard = is_published(backbone)
            written[file] = (
                "for A1111, Forge, ComfyUI, InvokeAI"
                if standard
                else "for no program: this model is not built like a published one"
            )
        model = folder / MODEL
        write_model_folder(model, backbone, metadata, dtype)
        return written | {model: "for diffusers and finetune sample --model"}
