"""Which programs load which file: the table of docs/files.md, and what `finetune inspect` says of one file.

diffusers is run by the tests. What is said of A1111, Forge, ComfyUI and InvokeAI is known from their code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

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
PROGRAMS = ("A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers", "finetune")


@dataclass(frozen=True)
class Loads:
    """A kind of file.

    Attributes:
        what: What it is, for the table.
        programs: Those of `PROGRAMS` that load it as it was meant.
        note: What to know about others.
    """

    what: str
    programs: tuple[str, ...]
    note: str = ""


_A1111, _FORGE, _COMFY, _INVOKE, _DIFFUSERS, _OWN = PROGRAMS
_SD_WEBUIS = (_A1111, _FORGE, _COMFY)
FILES: Mapping[str, Loads] = {
    "lora": Loads("LoRA, LoCon, rsLoRA with kohya's names", PROGRAMS),
    "lora-diffusers": Loads(
        "LoRA, LoCon, rsLoRA, DoRA with diffusers' names",
        (_DIFFUSERS, _OWN),
        "Whether ComfyUI loads it depends on ComfyUI's version.",
    ),
    "lora-others": Loads(
        "LoRA with the names of PEFT, of LyCORIS alone (`lycoris_…`), or older ones",
        (_OWN,),
        "finetune resize and finetune merge write names that more programs know.",
    ),
    "lora-word": Loads(
        "LoRA with a new word in it",
        (_A1111, _OWN),
        "The new word in it is read by A1111. Forge, ComfyUI and InvokeAI need the word's own file too; "
        "diffusers refuses this one.",
    ),
    "dora": Loads(
        "DoRA with kohya's names",
        (_COMFY, _OWN),
        "A1111 and Forge compute a DoRA differently, and diffusers ignores its magnitudes in this layout: "
        "finetune export --to plain-lora makes a plain LoRA for them.",
    ),
    "lycoris": Loads(
        "LoHa, LoKr, full differences, norms with LyCORIS's names",
        (*_SD_WEBUIS, _OWN),
        "diffusers loads plain LoRAs only.",
    ),
    "lycoris-diffusers": Loads(
        "LoHa, LoKr with diffusers' names",
        (_OWN,),
        "diffusers' pipelines load plain LoRAs only: finetune export makes one.",
    ),
    "word": Loads("new word, `emb_params`", (*_SD_WEBUIS, _INVOKE, _OWN)),
    "word-diffusers": Loads("new word, under its own name", (_DIFFUSERS, _OWN)),
    "word-sdxl": Loads(
        "new word for SDXL, `clip_l` and `clip_g`",
        PROGRAMS,
        "diffusers loads one text encoder's part at a time.",
    ),
    "model-folder": Loads("whole model, a diffusers folder", (_DIFFUSERS, _OWN)),
    "model": Loads(
        "whole model in one file",
        PROGRAMS,
        "In diffusers it is from_single_file.",
    ),
    "vae": Loads("VAE", (*_SD_WEBUIS, _OWN), "Here it is --vae."),
    "controlnet-folder": Loads(
        "ControlNet with diffusers' names",
        (*_SD_WEBUIS, _DIFFUSERS, _OWN),
        "A1111 with its ControlNet extension; diffusers wants a folder with config.json.",
    ),
    "controlnet": Loads(
        "ControlNet with the original code's names",
        (*_SD_WEBUIS, _DIFFUSERS, _OWN),
        "A1111 with its ControlNet extension; in diffusers it is from_single_file, not for SDXL.",
    ),
    "control-lora": Loads(
        "Control-LoRA", (_COMFY, _DIFFUSERS, _OWN), "In diffusers it is load_lora_adapter of a ControlNet."
    ),
}


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
    """The programs that load a LoRA file as it was meant, and what to know about others.

    Args:
        layout: From `layout_of`.
        weights: What the file holds.
        keys: Its keys.
    """
    row = FILES[_row(layout, set(kinds_of(weights)), keys)]
    loads, notes = list(row.programs), [row.note] if row.note else []
    if fault := _misread_by_diffusers(weights) if row is FILES["lora"] else None:
        loads.remove(_DIFFUSERS)
        notes.append(fault)
    return loads, notes


def _row(layout: str, kinds: Collection[str], keys: Collection[str]) -> str:
    if layout == "diffusers":
        return "lora-diffusers" if set(kinds) <= {"LoRA", "DoRA"} else "lycoris-diffusers"
    if layout != "kohya":
        return "lora-others"
    if any(key.startswith(f"{BUNDLE}.") for key in keys):
        return "lora-word"
    if "DoRA" in kinds:
        return "dora"
    return "lycoris" if set(kinds) - {"LoRA"} else "lora"


def _misread_by_diffusers(weights: LoRAWeights) -> str | None:
    """What a plain LoRA with kohya's names must not have for diffusers to read it as it is."""
    if _misread(weights):
        return (
            "diffusers does not read a text encoder's attention without out_proj in this layout: finetune "
            "resize --to diffusers writes a file that it reads."
        )
    several = [part for part, rows in weights.parts().items() if len({r.alpha for r in rows.values()}) > 1]
    if several:
        note = f"diffusers misreads it, since its alphas differ ({', '.join(several)})"
        return f"{note}: finetune resize makes them one."
    return None


def _misread(weights: LoRAWeights) -> bool:
    """Whether a text encoder's attention is changed, but nowhere its output, which diffusers looks for."""
    attention = (
        {name.rpartition(".")[2] for name in layers if ".self_attn." in name}
        for part, layers in weights.parts().items()
        if part != "unet"
    )
    return any(names and "out_proj" not in names for names in attention)
