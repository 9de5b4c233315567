"""Which layers get a LoRA, by the settings' names for them."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from torch import nn

from finetune.adapters.inject import LayerSize, adaptable
from finetune.config import LoRASection
from finetune.errors import ConfigError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
PROJECTIONS = ("proj_in", "proj_out")
PRESETS: Mapping[str, tuple[str, ...]] = {
    "attention": ATTENTION,
    "attention+ff": ATTENTION + FEED_FORWARD,
    "all": ATTENTION + FEED_FORWARD + PROJECTIONS,
}
# The convolutions that LoCon adapts: those of residual blocks and of the changes of size, not the
# UNet's very first and last.
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")
TEXT_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
TEXT_FEED_FORWARD = ("mlp.fc1", "mlp.fc2")


def unet_sizes(unet: nn.Module, section: LoRASection) -> dict[str, LayerSize]:
    """The layers of `unet` that the settings name, in the module's order.

    Args:
        unet: The UNet.
        section: `targets`, `conv_rank` and the sizes are read.

    Raises:
        ConfigError: If an ending in `targets` matches no linear or convolution layer.
    """
    own = not isinstance(section.targets, str)
    endings = tuple(section.targets) if own else PRESETS[str(section.targets)]
    chosen = _matching(unet, endings)
    if own:
        _check_endings(unet, endings, chosen)
    sizes = {layer: LayerSize(section.rank, section.alpha) for layer in chosen}
    if section.conv_rank is not None:
        alpha = float(section.conv_rank) if section.conv_alpha is None else section.conv_alpha
        sizes |= {layer: LayerSize(section.conv_rank, alpha) for layer in _matching(unet, CONVOLUTIONS)}
    elif section.conv_alpha is not None:
        raise ConfigError(
            "conv_alpha has no effect without conv_rank.",
            where="adapter.conv_alpha",
            mend="Set adapter.conv_rank too, or leave conv_alpha out.",
        )
    if not sizes:
        raise ConfigError(
            "The UNet has none of the layers to adapt.", where="adapter.targets", mend="Name others."
        )
    return {layer: sizes[layer] for layer in adaptable(unet) if layer in sizes}


def text_sizes(encoder: nn.Module, section: LoRASection) -> dict[str, LayerSize]:
    """The layers of a text encoder: its attention, and its feed-forward layers where the UNet's are adapted.

    Args:
        encoder: The text encoder.
        section: `targets`, `rank` and `alpha` are read.
    """
    wide = section.targets in ("attention+ff", "all")
    endings = TEXT_ATTENTION + TEXT_FEED_FORWARD if wide else TEXT_ATTENTION
    return {layer: LayerSize(section.rank, section.alpha) for layer in _matching(encoder, endings)}


def _ends(layer: str, ending: str) -> bool:
    return layer == ending or layer.endswith("." + ending)


def _matching(module: nn.Module, endings: tuple[str, ...]) -> list[str]:
    return [layer for layer in adaptable(module) if any(_ends(layer, ending) for ending in endings)]


def _check_endings(unet: nn.Module, endings: tuple[str, ...], chosen: list[str]) -> None:
    if not endings:
        raise ConfigError(
            "The list of layers to adapt is empty.",
            where="adapter.targets",
            mend='Name some, e.g. ["to_q", "to_v"].',
        )
    for ending in endings:
        if not any(_ends(layer, ending) for layer in chosen):
            known = {
                layer.split(".", i)[-1] for layer in adaptable(unet) for i in range(layer.count(".") + 1)
            }
            near = get_close_matches(ending, sorted(known), n=3)
            raise ConfigError(
                f'No linear or convolution layer of the UNet has a name that ends in "{ending}".',
                where="adapter.targets",
                mend=f"Nearest: {', '.join(near)}." if near else f"Usual ones: {', '.join(PRESETS['all'])}.",
            )
