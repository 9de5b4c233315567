"""Which layers get an update, and of which rank and alpha."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from torch import nn

from finetune.adapters.inject import LayerSize, adaptable
from finetune.config import LoRASection
from finetune.config.blocks import longest_prefix, unmatched_prefixes
from finetune.errors import ConfigError

if TYPE_CHECKING:
    from finetune.backbones import Backbone

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
PROJECTIONS = ("proj_in", "proj_out")
PRESETS: Mapping[str, tuple[str, ...]] = {
    "attention": ATTENTION,
    "attention+ff": ATTENTION + FEED_FORWARD,
    "all": ATTENTION + FEED_FORWARD + PROJECTIONS,
}
# The convolutions that LoCon adapts: those of residual blocks and of the down- and upsamplers, not the
# UNet's first and last.
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")
TEXT_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
TEXT_FEED_FORWARD = ("mlp.fc1", "mlp.fc2")


def chosen_sizes(backbone: Backbone, section: LoRASection) -> dict[str, dict[str, LayerSize]]:
    """The layers that get an update, by part of the model ("unet", "text_encoder", …) and live name.

    Args:
        backbone: The model.
        section: `targets`, the ranks and alphas, and `text_encoder` are read.

    Raises:
        ConfigError: If something named there matches nothing, or no layer is left.
    """
    roots = backbone.module_roots()
    sizes = {
        part: unet_sizes(module, section) if part == "unet" else text_sizes(module, section)
        for part, module in roots.items()
        if part == "unet" or section.text_encoder
    }
    if section.block_rank:
        sizes = _by_block(sizes, backbone, section)
    required = [("unet", "UNet", "Give one of its blocks a rank above 0.")]
    if section.text_encoder:
        required.append(("text_encoder", "text encoder", "Set adapter.text_encoder=false instead."))
    for part, title, fix in required:
        if not any(layers for name, layers in sizes.items() if name.startswith(part)):
            message = f"No layer of the {title} is left to adapt."
            raise ConfigError(message, where="adapter.block_rank", fix=fix)
    return {part: layers for part, layers in sizes.items() if layers}


def _by_block(
    sizes: Mapping[str, Mapping[str, LayerSize]], backbone: Backbone, section: LoRASection
) -> dict[str, dict[str, LayerSize]]:
    """The sizes with the ranks of `block_rank`, where names of text layers start with their part."""
    names = {
        (part, layer): layer if part == "unet" else f"{part}.{backbone.file_name(part, layer)}"
        for part, layers in sizes.items()
        for layer in layers
    }
    for prefix, near in unmatched_prefixes(section.block_rank, names.values()):
        raise ConfigError(
            f'No layer that gets an adapter has a name that begins with "{prefix}".',
            where="adapter.block_rank",
            fix=f'Nearest: "{near}".' if near else "Blocks are named mid_block, up_blocks.1, text_encoder, …",
        )
    changed: dict[str, dict[str, LayerSize]] = {part: {} for part in sizes}
    for (part, layer), name in names.items():
        size, block = sizes[part][layer], longest_prefix(name, section.block_rank)
        rank = size.rank if block is None else section.block_rank[block]
        if rank > 0:
            # rsLoRA's alpha/√rank is designed so that alpha need not change with the rank.
            alpha = size.alpha if section.rslora else size.alpha * rank / size.rank
            changed[part][layer] = LayerSize(rank, alpha)
    return changed


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
    if not sizes:
        raise ConfigError(
            "The UNet has none of the layers to adapt.", where="adapter.targets", fix="Name other layers."
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
    for ending in endings:
        if not any(_ends(layer, ending) for layer in chosen):
            known = {
                layer.split(".", i)[-1] for layer in adaptable(unet) for i in range(layer.count(".") + 1)
            }
            near = get_close_matches(ending, sorted(known), n=3)
            raise ConfigError(
                f'No linear or convolution layer of the UNet has a name that ends in "{ending}".',
                where="adapter.targets",
                fix=f"Nearest: {', '.join(near)}." if near else f"Usual ones: {', '.join(PRESETS['all'])}.",
            )
