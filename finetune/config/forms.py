"""The forms that a trained result can be written in, one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["lora", "controlnet", "embedding", "model"]

KINDS: dict[Kind, str] = {
    "lora": "a LoRA",
    "controlnet": "a ControlNet",
    "embedding": "a new word",
    "model": "a whole model",
}
"""What can be written, with its name in sentences."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form of a result.

    Attributes:
        summary: What it is, in a few words.
        writers: Who writes it, "module:name", for each kind of thing that it can be made from. A writer takes
            an `export.Job` and returns a sentence for the user.
        folder: Whether it is a folder; else a safetensors file.
        weighted: Whether the weight of a LoRA may be other than 1.
        ranked: Whether it has a rank of its own.
    """

    summary: str
    writers: Mapping[Kind, str]
    folder: bool = False
    weighted: bool = False
    ranked: bool = False


_PLACE = "finetune.export"

FORMS: dict[str, Form] = {
    "kohya": Form(
        summary="a LoRA file for A1111, Forge, ComfyUI, InvokeAI",
        writers={"lora": f"{_PLACE}.loras:write_kohya_file"},
        weighted=True,
    ),
    "diffusers": Form(
        summary="a LoRA file for diffusers",
        writers={"lora": f"{_PLACE}.loras:write_diffusers_file"},
        weighted=True,
    ),
    "peft": Form(
        summary="a folder of PEFT's adapters",
        writers={"lora": f"{_PLACE}.loras:write_peft_folder"},
        folder=True,
        weighted=True,
    ),
    "plain-lora": Form(
        summary="a DoRA, LoHa or LoKr as a LoRA file that means the same to every program",
        writers={"lora": f"{_PLACE}.plain:write_plain"},
        ranked=True,
    ),
    "merged": Form(
        summary="the whole model as a diffusers folder, a LoRA merged in",
        writers={"lora": f"{_PLACE}.merge:write_merged", "model": f"{_PLACE}.merge:write_folder"},
        folder=True,
        weighted=True,
    ),
    "single-file": Form(
        summary="the whole model as one checkpoint file, a LoRA merged in",
        writers={"lora": f"{_PLACE}.merge:write_merged_file", "model": f"{_PLACE}.merge:write_file"},
        weighted=True,
    ),
    "controlnet": Form(
        summary="a ControlNet as a diffusers folder",
        writers={"controlnet": f"{_PLACE}.branches:write_controlnet_folder"},
        folder=True,
    ),
    "controlnet-single-file": Form(
        summary="a ControlNet as one file with the original names",
        writers={"controlnet": f"{_PLACE}.branches:write_controlnet_single"},
    ),
    "embedding": Form(
        summary="a new word as a file of its own",
        writers={
            "embedding": f"{_PLACE}.words:write_word_file",
            "lora": f"{_PLACE}.words:write_word_of_lora",
        },
    ),
}
