"""All weights: the UNet and optionally the text encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from finetune.adapters.base import Adapter
from finetune.backbones.memory import move
from finetune.backbones.precision import PRECISIONS
from finetune.backbones.quantize import refuse_quantized
from finetune.config import FullSection

if TYPE_CHECKING:
    from finetune.backbones import Backbone


class Full(Adapter):
    """Trains every weight of the UNet, and of the text encoders if the section says so.

    Args:
        backbone: The pretrained model; its trained parts are converted to the section's precision.
        section: What is trained.

    Raises:
        ConfigError: If the model is quantized.
    """

    def __init__(self, backbone: Backbone, section: FullSection) -> None:
        refuse_quantized(backbone, "Training all weights")
        super().__init__(backbone, trains_text=section.text_encoder)
        for part in self._parts().values():
            move(part, backbone.device, PRECISIONS[section.weights])
            part.requires_grad_(True)

    def trained(self) -> dict[str, nn.Parameter]:
        """Every parameter of the trained parts, named by the part plus its name in the part's state dict."""
        return {
            f"{root}.{name}": parameter
            for root, part in self._parts().items()
            for name, parameter in part.named_parameters()
        }

    def _parts(self) -> dict[str, nn.Module]:
        roots = self.backbone.module_roots()
        return {root: part for root, part in roots.items() if root == "unet" or self.trains_text}
