"""The published checkpoints' names and shapes, written out from how the original code builds its models.

Sources: `openaimodel.py`, `attention.py` and `model.py` of CompVis/latent-diffusion and Stability-AI's
generative-models, `cldm.py` of lllyasviel/ControlNet, and the numbers in their yaml files; OpenCLIP's
`transformer.py`; transformers' CLIP. Nothing is from this program, whose names are tested against this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.families import Family

Shape = tuple[int, ...]


@dataclass(frozen=True)
class UNetConfig:
    """The numbers under `unet_config` in a yaml file.

    `depth` is `transformer_depth`, `label` `adm_in_channels`, `attention` `attention_resolutions`.
    """

    context: int
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    attention: tuple[int, ...] = (4, 2, 1)
    depth: tuple[int, ...] = (1, 1, 1, 1)
    linear: bool = False
    label: int = 0
    width: int = 320
    blocks: int = 2
    channels: int = 4


# v1-inference.yaml, v2-inference-v.yaml, sd_xl_base.yaml
UNETS: dict[Family, UNetConfig] = {
    "sd1": UNetConfig(768),
    "sd2": UNetConfig(1024, linear=True),
    "sdxl": UNetConfig(2048, (1, 2, 4), (4, 2), (1, 2, 10), linear=True, label=2816),
}


@dataclass(frozen=True)
class Tensor:
    """One weight: its name in the original code and in diffusers, and its shape (in the original code)."""

    original: str
    diffusers: str
    shape: Shape


def unet(config: UNetConfig) -> Iterator[Tensor]:
    """`UNetModel`: its constructor, block by block."""
    yield from _shared(config)
    # The way up takes what the way down has left, last first.
    left = [config.width, *(width for _, _, width in _way_down(config))]
    width, number, levels = left[-1], 0, len(config.multipliers)
    for level in reversed(range(levels)):
        for i in range(config.blocks + 1):
            block, ours = f"output_blocks.{number}", f"up_blocks.{levels - 1 - level}"
            into, width = width + left.pop(), config.width * config.multipliers[level]
            yield from _resnet(f"{block}.0", f"{ours}.resnets.{i}", into, width, config)
            parts = 1
            if 2**level in config.attention:
                yield from _attention(
                    f"{block}.1", f"{ours}.attentions.{i}", width, config.depth[level], config
                )
                parts += 1
            if level and i == config.blocks:
                yield from _layer(f"{block}.{parts}.conv", f"{ours}.upsamplers.0.conv", (width, width, 3, 3))
            number += 1
    yield from _norm("out.0", "conv_norm_out", width)
    yield from _layer("out.2", "conv_out", (config.channels, width, 3, 3))


def controlnet(config: UNetConfig) -> Iterator[Tensor]:
    """`ControlNet`: half of the UNet, a network for the control picture, and convolutions of zeros."""
    yield from _shared(config)
    way = list(_way_down(config))
    for number, width in enumerate([config.width, *(width for _, _, width in way)]):
        yield from _layer(f"zero_convs.{number}.0", f"controlnet_down_blocks.{number}", (width, width, 1, 1))
    yield from _layer("middle_block_out.0", "controlnet_mid_block", (width, width, 1, 1))
    widths = (3, 16, 16, 32, 32, 96, 96, 256, config.width)  # between activations, which are numbered too
    names = ["conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out"]
    for i, name in enumerate(names):
        shape = widths[i + 1], widths[i], 3, 3
        yield from _layer(f"input_hint_block.{2 * i}", f"controlnet_cond_embedding.{name}", shape)


def _shared(config: UNetConfig) -> Iterator[Tensor]:
    """What a ControlNet copies of the UNet."""
    width, time = config.width, 4 * config.width
    yield from _layer("time_embed.0", "time_embedding.linear_1", (time, width))
    yield from _layer("time_embed.2", "time_embedding.linear_2", (time, time))
    if config.label:
        yield from _layer("label_emb.0.0", "add_embedding.linear_1", (time, config.label))
        yield from _layer("label_emb.0.2", "add_embedding.linear_2", (time, time))
    yield from _layer("input_blocks.0.0", "conv_in", (width, config.channels, 3, 3))
    for number, (level, i, own) in enumerate(_way_down(config), start=1):
        block, ours = f"input_blocks.{number}.0", f"down_blocks.{level}"
        if i is None:
            yield from _layer(f"{block}.op", f"{ours}.downsamplers.0.conv", (own, own, 3, 3))
        else:
            yield from _resnet(block, f"{ours}.resnets.{i}", width, own, config)
            if 2**level in config.attention:
                depth = config.depth[level]
                yield from _attention(
                    f"input_blocks.{number}.1", f"{ours}.attentions.{i}", own, depth, config
                )
        width = own
    yield from _resnet("middle_block.0", "mid_block.resnets.0", width, width, config)
    yield from _attention("middle_block.1", "mid_block.attentions.0", width, config.depth[-1], config)
    yield from _resnet("middle_block.2", "mid_block.resnets.1", width, width, config)


def _way_down(config: UNetConfig) -> Iterator[tuple[int, int | None, int]]:
    """Level, number in it (none for a downsampler) and width of each of `input_blocks` after the first."""
    for level, multiplier in enumerate(config.multipliers):
        for i in range(config.blocks):
            yield level, i, config.width * multiplier
        if level < len(config.multipliers) - 1:
            yield level, None, config.width * multiplier


def _layer(original: str, diffusers: str, shape: Shape, bias: bool = True) -> Iterator[Tensor]:
    yield Tensor(f"{original}.weight", f"{diffusers}.weight", shape)
    if bias:
        yield Tensor(f"{original}.bias", f"{diffusers}.bias", shape[:1])


def _norm(original: str, diffusers: str, width: int) -> Iterator[Tensor]:
    return _layer(original, diffusers, (width,))


def _resnet(original: str, diffusers: str, into: int, out: int, config: UNetConfig) -> Iterator[Tensor]:
    yield from _norm(f"{original}.in_layers.0", f"{diffusers}.norm1", into)
    yield from _layer(f"{original}.in_layers.2", f"{diffusers}.conv1", (out, into, 3, 3))
    yield from _layer(f"{original}.emb_layers.1", f"{diffusers}.time_emb_proj", (out, 4 * config.width))
    yield from _norm(f"{original}.out_layers.0", f"{diffusers}.norm2", out)
    yield from _layer(f"{original}.out_layers.3", f"{diffusers}.conv2", (out, out, 3, 3))
    if into != out:
        yield from _layer(f"{original}.skip_connection", f"{diffusers}.conv_shortcut", (out, into, 1, 1))


def _attention(original: str, diffusers: str, width: int, depth: int, config: UNetConfig) -> Iterator[Tensor]:
    """`SpatialTransformer`, whose parts have the same names in both."""
    proj: Shape = (width, width) if config.linear else (width, width, 1, 1)
    yield from _norm(f"{original}.norm", f"{diffusers}.norm", width)
    yield from _layer(f"{original}.proj_in", f"{diffusers}.proj_in", proj)
    yield from _layer(f"{original}.proj_out", f"{diffusers}.proj_out", proj)
    for i in range(depth):
        theirs, ours = (f"{name}.transformer_blocks.{i}" for name in (original, diffusers))
        for norm in ("norm1", "norm2", "norm3"):
            yield from _norm(f"{theirs}.{norm}", f"{ours}.{norm}", width)
        for attention, context in (("attn1", width), ("attn2", config.context)):
            for part, size in (("to_q", width), ("to_k", context), ("to_v", context)):
                names = f"{theirs}.{attention}.{part}", f"{ours}.{attention}.{part}"
                yield from _layer(*names, (width, size), bias=False)
            yield from _layer(
                f"{theirs}.{attention}.to_out.0", f"{ours}.{attention}.to_out.0", (width, width)
            )
        yield from _layer(f"{theirs}.ff.net.0.proj", f"{ours}.ff.net.0.proj", (8 * width, width))  # GEGLU
        yield from _layer(f"{theirs}.ff.net.2", f"{ours}.ff.net.2", (width, 4 * width))


def vae() -> Iterator[Tensor]:
    """`Encoder` and `Decoder` of `AutoencoderKL` with ch 128, ch_mult 1, 2, 4, 4 and two blocks a level."""
    widths, latent = (128, 256, 512, 512), 4
    yield from _layer("encoder.conv_in", "encoder.conv_in", (128, 3, 3, 3))
    into = 128
    for level, width in enumerate(widths):
        for i in range(2):
            names = f"encoder.down.{level}.block.{i}", f"encoder.down_blocks.{level}.resnets.{i}"
            yield from _vae_resnet(*names, into, width)
            into = width
        if level < 3:
            ours = f"encoder.down_blocks.{level}.downsamplers.0.conv"
            yield from _layer(f"encoder.down.{level}.downsample.conv", ours, (width, width, 3, 3))
    yield from _vae_middle("encoder")
    yield from _norm("encoder.norm_out", "encoder.conv_norm_out", 512)
    yield from _layer("encoder.conv_out", "encoder.conv_out", (2 * latent, 512, 3, 3))
    yield from _layer("quant_conv", "quant_conv", (2 * latent, 2 * latent, 1, 1))
    yield from _layer("post_quant_conv", "post_quant_conv", (latent, latent, 1, 1))
    yield from _layer("decoder.conv_in", "decoder.conv_in", (512, latent, 3, 3))
    yield from _vae_middle("decoder")
    into = 512
    for level in (3, 2, 1, 0):  # the original counts levels of size; diffusers counts in order
        width, ours = widths[level], f"decoder.up_blocks.{3 - level}"
        for i in range(3):
            yield from _vae_resnet(f"decoder.up.{level}.block.{i}", f"{ours}.resnets.{i}", into, width)
            into = width
        if level:
            names = f"decoder.up.{level}.upsample.conv", f"{ours}.upsamplers.0.conv"
            yield from _layer(*names, (width, width, 3, 3))
    yield from _norm("decoder.norm_out", "decoder.conv_norm_out", 128)
    yield from _layer("decoder.conv_out", "decoder.conv_out", (3, 128, 3, 3))


def _vae_resnet(original: str, diffusers: str, into: int, out: int) -> Iterator[Tensor]:
    yield from _norm(f"{original}.norm1", f"{diffusers}.norm1", into)
    yield from _layer(f"{original}.conv1", f"{diffusers}.conv1", (out, into, 3, 3))
    yield from _norm(f"{original}.norm2", f"{diffusers}.norm2", out)
    yield from _layer(f"{original}.conv2", f"{diffusers}.conv2", (out, out, 3, 3))
    if into != out:
        yield from _layer(f"{original}.nin_shortcut", f"{diffusers}.conv_shortcut", (out, into, 1, 1))


def _vae_middle(side: str) -> Iterator[Tensor]:
    for number in (1, 2):
        names = f"{side}.mid.block_{number}", f"{side}.mid_block.resnets.{number - 1}"
        yield from _vae_resnet(*names, 512, 512)
    theirs, ours = f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0"
    yield from _norm(f"{theirs}.norm", f"{ours}.group_norm", 512)
    for part, own in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        yield from _layer(f"{theirs}.{part}", f"{ours}.{own}", (512, 512, 1, 1))


@dataclass(frozen=True)
class TextConfig:
    """A CLIP text encoder: how its names begin, its size, and whether it is OpenCLIP's."""

    prefix: str
    width: int
    layers: int
    open: bool = False


# SD 2's OpenCLIP has 24 layers, of which the last is unused, and not in diffusers' folder.
TEXTS: dict[Family, tuple[TextConfig, ...]] = {
    "sd1": (TextConfig("cond_stage_model.transformer.", 768, 12),),
    "sd2": (TextConfig("cond_stage_model.model.", 1024, 23, open=True),),
    "sdxl": (
        TextConfig("conditioner.embedders.0.transformer.", 768, 12),
        TextConfig("conditioner.embedders.1.model.", 1280, 32, open=True),
    ),
}


def text(config: TextConfig) -> dict[str, Shape]:
    """The names and shapes of a text encoder in a checkpoint, without the prefix."""
    return dict(_open_clip(config) if config.open else _clip(config))


def _clip(config: TextConfig) -> Iterator[tuple[str, Shape]]:
    """Transformers' `CLIPTextModel`."""
    width = config.width
    yield "text_model.embeddings.token_embedding.weight", (49408, width)
    yield "text_model.embeddings.position_embedding.weight", (77, width)
    for i in range(config.layers):
        for name, size in clip_layers(width).items():
            yield f"text_model.encoder.layers.{i}.{name}.weight", size
            yield f"text_model.encoder.layers.{i}.{name}.bias", size[:1]
        for norm in ("layer_norm1", "layer_norm2"):
            for kind in ("weight", "bias"):
                yield f"text_model.encoder.layers.{i}.{norm}.{kind}", (width,)
    for kind in ("weight", "bias"):
        yield f"text_model.final_layer_norm.{kind}", (width,)


def clip_layers(width: int) -> dict[str, Shape]:
    """The layers of each block of transformers' CLIP."""
    attention = {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
    return attention | {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}


def _open_clip(config: TextConfig) -> Iterator[tuple[str, Shape]]:
    """OpenCLIP's `TextTransformer`; query, key and value are one matrix of `nn.MultiheadAttention`."""
    width = config.width
    yield "token_embedding.weight", (49408, width)
    yield "positional_embedding", (77, width)
    yield "text_projection", (width, width)
    for kind in ("weight", "bias"):
        yield f"ln_final.{kind}", (width,)
    for i in range(config.layers):
        block = f"transformer.resblocks.{i}"
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        sizes = {
            "attn.out_proj": (width, width),
            "mlp.c_fc": (4 * width, width),
            "mlp.c_proj": (width, 4 * width),
        }
        for name, size in sizes.items():
            yield f"{block}.{name}.weight", size
            yield f"{block}.{name}.bias", size[:1]
        for norm in ("ln_1", "ln_2"):
            for kind in ("weight", "bias"):
                yield f"{block}.{norm}.{kind}", (width,)
