"""What the keys of LoRA files mean, in every spelling in use.

| written by | example |
|---|---|
| kohya's sd-scripts, LyCORIS | `lora_unet_down_blocks_0_…_attn1_to_q.lora_down.weight`, `….alpha` |
| the same for SDXL | `lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight` |
| diffusers with PEFT | `unet.down_blocks.0.….attn1.to_q.lora_A.weight` |
| PEFT alone | `base_model.model.down_blocks.0.….attn1.to_q.lora_A.weight` |
| diffusers' scripts | `unet.….attn1.to_q.lora.down.weight`, `….q_proj.lora_linear_layer.down.weight` |
| diffusers before PEFT | `unet.….attn1.processor.to_q_lora.down.weight` |
| LyCORIS's LoHa and LoKr | `lora_unet_….hada_w1_a`, `lora_unet_….lokr_w1`, `….lokr_w2_b` |
| PEFT's LoHa and LoKr | `unet.….attn1.to_q.hada_w1_a`, `….lokr_w2` |
| full differences of weights and biases | `lora_unet_….diff`, `….diff_b` |
| LyCORIS's norms | `lora_unet_….norm1.w_norm`, `….b_norm` |
| LyCORIS without kohya's scripts | `lycoris_down_blocks_0_…_attn1_to_q.lokr_w1` |

Since kohya's names cannot be split again (dots became underscores), layers are found the other way
around: every layer of the model is listed under each of its spellings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from finetune.adapters.algorithms import weight_classes
from finetune.adapters.inject import adaptable, norms
from finetune.adapters.weights import Role
from finetune.backbones import Backbone
from finetune.backbones.names import original_unet_name
from finetune.formats.layers import VECTORS
from finetune.kernels import weight_shape

# Longest first where one is a prefix of another. Part None: the key does not say which.
PREFIXES: dict[str, str | None] = {
    "lora_unet_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
    "lycoris_": None,
    "base_model.model.": None,
    "unet.": "unet",
    "diffusion_model.": "unet",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
}
# Attention before PEFT: processors held the LoRA, and CLIP's layers were named like the UNet's.
OLD_SPELLINGS = {
    "_processor_to_": "_to_",
    "self_attn_to_q": "self_attn_q_proj",
    "self_attn_to_k": "self_attn_k_proj",
    "self_attn_to_v": "self_attn_v_proj",
    "self_attn_to_out": "self_attn_out_proj",
}
# Other kinds of updates, by what their keys, with a dot appended, contain.
OTHER_KINDS = {
    "oft_": "OFT",
    ".a1.weight": "GLoRA",
    ".on_input": "(IA)³",
    "scale_weight.": "fp8 weights with separate scales",
    "weight_scale.": "fp8 weights with separate scales",
    "scaled_fp8.": "fp8 weights with separate scales",
}


def suffixes() -> dict[str, Role]:
    """Role of a tensor by the end of its key, for all algorithms."""
    found: dict[str, Role] = {".alpha": "alpha", **VECTORS}
    for kind in weight_classes():
        found |= kind.suffixes
    return found


def other_kind(keys: Iterable[str]) -> str | None:
    """What `keys` hold instead of a LoRA, if it is something known."""
    dotted = [f"{key}." for key in keys]
    return next((kind for sign, kind in OTHER_KINDS.items() if any(sign in key for key in dotted)), None)


@dataclass(frozen=True)
class Key:
    """One parsed key.

    Attributes:
        part: "unet", "text_encoder", "text_encoder_2", or None if the key does not say.
        layer: The layer's name with underscores for dots.
        role: What the tensor is.
    """

    part: str | None
    layer: str
    role: Role


def parse_key(key: str) -> Key | None:
    """Parses a key; None if it is in none of the spellings."""
    roles = suffixes()
    suffix = next((s for s in roles if key.endswith(s)), None)
    if suffix is None:
        return None
    layer, part = key.removesuffix(suffix), None
    for prefix, meant in PREFIXES.items():
        if layer.startswith(prefix):
            layer, part = layer.removeprefix(prefix), meant or part
    layer = layer.replace(".", "_")
    for old, new in OLD_SPELLINGS.items():
        layer = layer.replace(old, new)
    if layer.endswith("_to_out"):
        layer += "_0"
    return Key(part, layer, roles[suffix])


class LayerNames:
    """Finds a backbone's layers and norms by any of their spellings.

    Args:
        backbone: The model that the file is to be used with.

    Attributes:
        shapes: The shape of the weight of each, by part and file name.
        biased: Those with a bias.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.shapes: dict[tuple[str, str], tuple[int, ...]] = {}
        self.biased: set[tuple[str, str]] = set()
        self._found: dict[str, dict[str, str]] = {}
        for part, module in backbone.module_roots().items():
            found = self._found.setdefault(part, {})
            for live, layer in {**adaptable(module), **norms(module)}.items():
                name = backbone.file_name(part, live)
                self.shapes[part, name] = weight_shape(layer)
                if layer.bias is not None:
                    self.biased.add((part, name))
                spellings = {live, name}
                if part == "unet":
                    spellings.add(original_unet_name(module, live))
                found.update({spelling.replace(".", "_"): name for spelling in spellings})

    def find(self, key: Key) -> tuple[str, str] | None:
        """The part and the file name of the layer that a key names; None if there is none."""
        for part in [key.part] if key.part else self._found:
            if name := self._found.get(part, {}).get(key.layer):
                return part, name
        return None
