"""Which programs load a LoRA file: what docs/lora.md and docs/embedding.md say, for one file.

diffusers is run by the tests. What is said of A1111, Forge, ComfyUI and InvokeAI is known from their code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from finetune.adapters.weights import LoRAWeights
from finetune.formats.embeddings import BUNDLE

# By the end of a key, then by its beginning. The first match counts; the marks are of one layer's keys.
LAYOUTS: tuple[tuple[str, str], ...] = (
    ("lora_unet_", "kohya"),
    ("lora_te", "kohya"),
    ("lycoris_", "LyCORIS"),
    ("base_model.model.", "PEFT"),
    (".processor.", "diffusers before PEFT"),
    ("lora_linear_layer", "diffusers' training scripts"),
    (".lora.", "diffusers' training scripts"),
    ("unet.", "diffusers"),
    ("text_encoder", "diffusers"),
    ("diffusion_model.", "ComfyUI"),
)
KINDS: Mapping[str, str] = {
    "lora": "LoRA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "full": "full differences",
    "decomposed": "DoRA",
}
OWN = "finetune"


def layout_of(keys: Collection[str]) -> str:
    """Whose names a LoRA file's keys have; "diffusers, without a prefix" if nothing else fits."""
    found = (name for mark, name in LAYOUTS if any(_has(key, mark) for key in keys))
    return next(found, "diffusers, without a prefix")


def _has(key: str, mark: str) -> bool:
    return mark in key if mark.startswith((".", "lora_linear")) else key.startswith(mark)


def kinds_of(weights: LoRAWeights) -> list[str]:
    """What its layers are: LoRA, DoRA, LoHa, LoKr, full differences; and whether biases or norms change."""
    names = {"DoRA" if r.variant().get("use_dora") else KINDS[r.algorithm] for r in weights.layers.values()}
    return sorted(names | ({"biases or norms"} if weights.vectors else set()))


def programs(layout: str, weights: LoRAWeights, keys: Collection[str]) -> tuple[list[str], list[str]]:
    """The programs that load a file as it was meant, and what to know about others.

    Args:
        layout: From `layout_of`.
        weights: What the file holds.
        keys: Its keys.
    """
    kinds = set(kinds_of(weights))
    if layout == "diffusers":
        if kinds <= {"LoRA", "DoRA"}:
            return ["diffusers", OWN], ["Whether ComfyUI loads it depends on ComfyUI's version."]
        return [OWN], ["diffusers' pipelines load plain LoRAs only: finetune export makes one."]
    if layout != "kohya":
        return [OWN], ["finetune resize and finetune merge write names that more programs know."]
    if any(key.startswith(f"{BUNDLE}.") for key in keys):
        return ["A1111", OWN], [
            "The new word in it is read by A1111. Forge, ComfyUI and InvokeAI need the word's own file too; "
            "diffusers refuses this one."
        ]
    if "DoRA" in kinds:
        return ["ComfyUI", OWN], [
            "A1111 and Forge compute a DoRA differently, and diffusers ignores its magnitudes in this "
            "layout: finetune export --to plain-lora makes a plain LoRA for them."
        ]
    if kinds - {"LoRA"}:
        return ["A1111", "Forge", "ComfyUI", OWN], ["diffusers loads plain LoRAs only."]
    if _misread(weights):
        note = (
            "diffusers does not read a text encoder's attention without out_proj in this layout: finetune "
            "resize --to diffusers writes a file that it reads."
        )
        return ["A1111", "Forge", "ComfyUI", "InvokeAI", OWN], [note]
    several = [part for part, rows in weights.parts().items() if len({r.alpha for r in rows.values()}) > 1]
    if several:
        note = f"diffusers misreads it, since its alphas differ ({', '.join(several)})"
        return ["A1111", "Forge", "ComfyUI", "InvokeAI", OWN], [f"{note}: finetune resize makes them one."]
    return ["A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers", OWN], []


def _misread(weights: LoRAWeights) -> bool:
    """Whether a text encoder's attention is changed, but nowhere its output, which diffusers looks for."""
    attention = (
        {name.rpartition(".")[2] for name in layers if ".self_attn." in name}
        for part, layers in weights.parts().items()
        if part != "unet"
    )
    return any(names and "out_proj" not in names for names in attention)
