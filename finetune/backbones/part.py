"""Reads one part of a model: a subfolder of a diffusers folder, with its configuration and weights."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open
from torch import nn

from finetune.backbones.families import damaged
from finetune.backbones.finite import integer_weight, is_finite
from finetune.backbones.precision import stored_dtype
from finetune.backbones.quiet import quiet
from finetune.errors import ModelError, OutOfMemory, UserError, memory_ran_out
from finetune.kernels import release_mapped

PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a model.

    Raises:
        ModelError: If there is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(file, error) from error
    if not isinstance(content, dict):
        raise unreadable(file, TypeError("not a JSON object"))
    return content


def unreadable(where: Path, error: Exception) -> UserError:
    """The error for a model, or a part of one, that a library cannot load."""
    if memory_ran_out(error):
        return OutOfMemory(str(where))
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return damaged(f"The model cannot be read: {reason.rstrip('.')}.", where)


def _weights_variant(folder: Path, stem: str, allow_pickle: bool) -> tuple[str | None, bool]:
    """Which precision variant of a part to load, and whether as safetensors."""
    if not folder.is_dir():
        raise damaged("A part of the model is missing.", folder)
    for suffix in (".safetensors", ".safetensors.index.json"):
        for variant in (None, "fp32", "fp16", "bf16"):
            infix = f".{variant}" if variant else ""
            sharded = suffix.endswith("index.json") and variant  # model.safetensors.index.fp16.json
            name = f"{stem}.safetensors.index.{variant}.json" if sharded else f"{stem}{infix}{suffix}"
            if (folder / name).is_file():
                return variant, True
    pickles = sorted(f for f in folder.iterdir() if f.suffix in PICKLES)
    if not pickles:
        raise damaged("A part of the model has no weights.", folder)
    if not allow_pickle:
        raise pickle_refused(pickles[0])
    variant = next((v for v in ("fp32", "fp16", "bf16") if pickles[0].name.endswith(f".{v}.bin")), None)
    return variant, False


def pickle_refused(file: Path) -> ModelError:
    """The error for weights in a pickle, which are only loaded if the user allows it (promise P6)."""
    return ModelError(
        "These weights are a pickle file, which is only loaded with your explicit permission.",
        where=str(file),
        fix="Get the .safetensors version, or allow this one with --set model.allow_pickle=true (only "
        "weights are read, no code).",
    )


def load_part(kind: type[Any], folder: Path, allow_pickle: bool, notes: list[str]) -> Any:
    """Loads one part of a model in the type that its file has it in.

    Args:
        kind: Its class in diffusers or transformers.
        folder: Where its configuration and weights are.
        allow_pickle: Whether the user allows weights in a pickle.
        notes: Gets a line about unexpected keys, whose weights are not used.

    Raises:
        ModelError: If the part is missing, damaged, incomplete, not finite, or a pickle without permission.
    """
    stem = "diffusion_pytorch_model" if issubclass(kind, diffusers.ModelMixin) else "model"
    variant, safe = _weights_variant(folder, stem, allow_pickle)
    if stem != "model":
        check_config(kind, folder / "config.json")
    try:
        dtype = _dtype_of(folder) if safe else torch.float32
        with quiet():
            module, info = kind.from_pretrained(
                str(folder),
                variant=variant,
                use_safetensors=safe,
                torch_dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # any fault of the files: each library has its own types for them
        raise unreadable(folder, error) from error
    check_complete(info, folder, notes)
    check_finite(module, str(folder))
    return module


def _dtype_of(folder: Path) -> torch.dtype:
    types: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            if integers := integer_weight(opened):
                raise TypeError(f"weights must be floating-point numbers, but {integers}")
            types |= {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    return stored_dtype(types)


def check_config(kind: type[Any], file: Path) -> None:
    """Refuses settings that are not numbers but should be; diffusers would fail only when it uses them."""
    config = read_json(file)
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        number = type(parameter.default) in (int, float) and "uple" not in str(parameter.annotation)
        if number and isinstance(config.get(name), (str, list, dict)):
            raise unreadable(file, TypeError(f"{name} is {json.dumps(config[name])[:100]}, not a number"))


def check_complete(info: Mapping[str, Any], folder: Path, notes: list[str]) -> None:
    """Refuses a part with missing weights, which the libraries would fill with random ones.

    Raises:
        ModelError: If weights are missing or have the wrong shape.
    """
    bad = [*info.get("missing_keys", ()), *(k[0] for k in info.get("mismatched_keys", ()))]
    if bad:
        names = ", ".join(sorted(map(str, bad))[:3])
        raise damaged(f"{len(bad)} weights are missing or have the wrong shape ({names} …).", folder)
    if unexpected := sorted(map(str, info.get("unexpected_keys", ()))):
        notes.append(f"{folder.name}: {len(unexpected)} weights of the file are not used ({unexpected[0]} …)")


def check_complete_module(module: nn.Module, file: Path) -> None:
    """As `check_complete`, of what was converted from one file, which leaves missing weights without values.

    Raises:
        ModelError: If weights are missing.
    """
    missing = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if missing:
        what = f"{len(missing)} weights of {type(module).__name__} are missing, such as {missing[0]}."
        raise ModelError(what, where=str(file), fix="Get the file again.")


def check_finite(module: nn.Module, where: str) -> None:
    """Refuses weights that would make every picture NaN.

    Raises:
        ModelError: Naming the first.
    """
    for name, weight in module.state_dict().items():
        if not is_finite(weight):
            raise damaged(f"A weight of the model is NaN or infinite: {name}.", where)
        release_mapped(weight)
