"""The LoRA recipe: a subject or a style from a few pictures, as a small file beside the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from finetune.config import LoRASection
from finetune.recipes.base import Recipe
from finetune.recipes.faults import Fault

if TYPE_CHECKING:
    from finetune.adapters.base import Adapter
    from finetune.backbones import Backbone


class LoRARecipe(Recipe):
    """Trains low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on captioned pictures."""

    finished_by: ClassVar[str] = "pytorch_lora_weights.safetensors"

    kind: Literal["lora"] = "lora"
    adapter: LoRASection = LoRASection()

    def contradictions(self) -> Iterator[Fault]:
        """As `Recipe.contradictions`, and those between the options of LoRA."""
        yield from super().contradictions()
        if self.adapter.conv_alpha is not None and self.adapter.conv_rank is None:
            yield Fault(
                "An alpha is given for convolutions, but they get no adapter.", "adapter.conv_alpha",
                "Set adapter.conv_rank too, or remove adapter.conv_alpha.",
            )  # fmt: skip
        if self.optimizer.text_encoder_lr is not None and not self.adapter.text_encoder:
            yield Fault(
                "A learning rate is given for the text encoder, but it is not trained.",
                "optimizer.text_encoder_lr",
                "Set adapter.text_encoder=true, or remove optimizer.text_encoder_lr.",
            )
        if self.adapter.targets == []:
            yield Fault(
                "No layers are named.",
                "adapter.targets",
                "Use attention, attention+ff, all, or name endings.",
            )

    def make_adapter(self, backbone: Backbone) -> Adapter:
        """The low-rank layers, attached to `backbone`; their start depends on the seed alone."""
        from finetune.adapters.lora import LoRA

        return LoRA(backbone, self.adapter, seed=self.training.seed)

    def write_results(
        self, adapter: Adapter, backbone: Backbone, folder: Path, name: str, metadata: dict[str, str]
    ) -> dict[Path, str]:
        """Both layouts of the LoRA: kohya's key names and diffusers'."""
        from finetune.adapters import LoRA
        from finetune.formats import write_diffusers, write_kohya

        assert isinstance(adapter, LoRA)
        kohya, diffusers = folder / f"{name}.safetensors", folder / self.finished_by
        write_kohya(kohya, adapter, metadata)
        write_diffusers(diffusers, adapter, metadata)
        return {
            kohya: "for A1111, Forge, ComfyUI, InvokeAI",
            diffusers: "for diffusers and finetune sample",
        }
