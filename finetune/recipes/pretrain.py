"""The pretrain recipe: a new, small Stable Diffusion from captioned pictures and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import Self

from finetune.config import CaptionedSection, FullSection
from finetune.config.base import Fault
from finetune.config.pretrain import ArchitectureSection, AutoencoderSection
from finetune.recipes.reporter import Reporter
from finetune.recipes.whole_model import WholeModelRecipe

if TYPE_CHECKING:
    from finetune.adapters.base import Adapter
    from finetune.backbones import Backbone
    from finetune.data import Folder
    from finetune.training import RunFolder


class PretrainRecipe(WholeModelRecipe):
    """Trains an autoencoder, then UNet and text encoder on its latents.

    The second stage is that of the `full` recipe, on a model with random weights.
    """

    unused: ClassVar[frozenset[str]] = frozenset(
        {
            *("model.name", "model.revision", "model.prediction_type", "model.max_tokens"),
            *("model.allow_pickle", "model.vae", "model.text_encoders", "model.ema"),
            *("adapter.text_encoder", "output.single_file"),
        }
    )
    stages: ClassVar[tuple[str, ...]] = ("autoencoder",)

    kind: Literal["pretrain"] = "pretrain"
    data: CaptionedSection = CaptionedSection()
    architecture: ArchitectureSection = ArchitectureSection()
    autoencoder: AutoencoderSection = AutoencoderSection()

    @property
    def trains_text(self) -> bool:
        """The text encoder is trained too."""
        return True

    @property
    def resolution(self) -> int:
        """Side of the pictures in pixels."""
        return self.data.resolution or int(self.architecture.sizes()["resolution"])

    def faults(self) -> Iterator[Fault]:
        """As `WholeModelRecipe.faults`, and a resolution that the levels do not divide."""
        yield from super().faults()
        sizes = self.architecture.sizes()
        levels = len(sizes["autoencoder_channels"]) + len(sizes["unet_channels"]) - 2
        if self.resolution % 2**levels:
            yield Fault(
                f"A resolution of {self.resolution} cannot be halved {levels} times, as this model requires.",
                "data.resolution",
                f"Use a multiple of {2**levels}, or fewer levels of channels.",
            )

    def load(self, pictures: Folder, report: Reporter) -> tuple[Self, Backbone]:
        """A model with random weights, whose tokenizer has learned from the captions."""
        from finetune.backbones.untrained import untrained_backbone

        target = self.objective.target
        prediction_type = "v_prediction" if target == "auto" else target
        captions = [caption for picture in pictures.pictures for caption in picture.captions]
        backbone = untrained_backbone(
            self.architecture, captions, self.resolution, prediction_type, self.training.seed
        )
        parts = {
            "autoencoder": backbone.vae,
            "UNet": backbone.unet,
            "text encoder": backbone.text_encoders[0],
        }
        millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in parts.items()}
        listed = ", ".join(f"{name} {count:.2f} M" for name, count in millions.items())
        report.tell(f"New model with random weights, parameters: {listed}.")
        return self, backbone

    def make_adapter(self, backbone: Backbone) -> Adapter:
        """All weights of UNet and text encoder."""
        from finetune.adapters.full import Full

        return Full(backbone, FullSection(text_encoder=True))

    def train_first(self, backbone: Backbone, pictures: Folder, folder: RunFolder, report: Reporter) -> None:
        """Trains the autoencoder, or resumes its training."""
        from finetune.recipes.autoencoder import train_autoencoder

        train_autoencoder(self, backbone.vae, pictures, folder, report)
