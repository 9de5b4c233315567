"""What a picture says of how it was made: from the text in our PNGs, or in those of A1111 and Forge."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from finetune.config.samplers import SAMPLERS
from finetune.data.decode import quiet_pillow
from finetune.errors import DataError
from finetune.sampling.emphasis import lora_tags
from finetune.sampling.settings import SamplingSection


@dataclass(frozen=True)
class Recorded:
    """How a picture was made.

    Attributes:
        path: The picture.
        prompt: What it was asked to show.
        settings: Fields of `SamplingSection`, as they were written.
        model: The model's name; None if it is only a title.
        loras: Name and weight of each LoRA.
        embeddings: New words.
        controlnets: Name and settings of each ControlNet.
        given: By what they were given for ("init", "mask", "control 0"), name and digest of pictures.
        precision: What it was computed in; None if it does not say.
        quantize: What the UNet's weights were rounded to; None if they were not.
        max_tokens: Of the prompt, if it is not the model's own.
        notes: What it lacks, or says and cannot be followed.
    """

    path: Path
    prompt: str
    settings: Mapping[str, Any]
    model: str | None = None
    loras: tuple[tuple[str, float], ...] = ()
    embeddings: tuple[str, ...] = ()
    controlnets: tuple[Mapping[str, Any], ...] = ()
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    precision: str | None = None
    quantize: str | None = None
    max_tokens: int | None = None
    notes: tuple[str, ...] = ()


def read_record(path: Path) -> Recorded:
    """Reads how a picture was made.

    Raises:
        DataError: It cannot be read, says nothing, or is a grid of several pictures.
    """
    texts = _texts(path)
    try:
        if "finetune" in texts:
            samples = json.loads(texts["finetune"])["samples"]
            if len(samples) == 1 and "toward" in samples[0]:
                raise DataError(
                    "This picture is one of a strip between two others.",
                    where=str(path),
                    fix="Sample the strip again, with both ends and sampling.between.",
                )
            if len(samples) == 1:
                return _ours(path, samples[0])
            raise DataError(
                f"This is a sheet of {len(samples)} pictures.",
                where=str(path),
                fix="Give one of the pictures, which are beside it.",
            )
        if "parameters" in texts:
            return read_a1111(path, texts["parameters"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            "What this picture says of how it was made is damaged.", where=str(path), fix="Give the original."
        ) from error
    raise DataError(
        "This picture does not say how it was made.",
        where=str(path),
        fix="Give a PNG as finetune, A1111 or Forge wrote it; editing may have removed its text.",
    )


def _texts(path: Path) -> dict[str, str]:
    try:
        with quiet_pillow(), Image.open(path) as image:
            image.load()
            found = getattr(image, "text", {})
            return {str(key): str(value) for key, value in found.items()}
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's readers raise all of them on damaged files
        reason = getattr(error, "strerror", None) or "it is not a picture, or damaged"
        fix = "Check the path."
        raise DataError(f"The picture cannot be read: {reason}.", where=str(path), fix=fix) from error


def _ours(path: Path, info: Mapping[str, Any]) -> Recorded:
    known = SamplingSection.model_fields
    return Recorded(
        path,
        prompt=str(info["prompt"]),
        settings={key: value for key, value in info.items() if key in known},
        model=str(info["model"]),
        loras=tuple((str(name), float(weight)) for name, weight in info["loras"]),
        embeddings=tuple(map(str, info.get("embeddings", ()))),
        controlnets=tuple(dict(control) for control in info.get("controlnets", ())),
        given={key: dict(info[key]) for key in info if key in ("init", "mask") or key.startswith("control ")},
        precision=str(info["precision"]),
        quantize=info.get("quantize"),
        max_tokens=info.get("max_tokens"),
    )


# --- A1111 -------------------------------------------------------------------------------------------

_PAIR = re.compile(r'([A-Za-z][\w /-]*): ("(?:[^"\\]|\\.)*"|[^,]*)(?:, |,?$)')

# What needs no word: it changes nothing, or is told apart.
_SILENT = {"Version", "Model", "Model hash", "VAE", "VAE hash", "Lora hashes", "TI hashes", "RNG"}


def read_a1111(path: Path, text: str) -> Recorded:
    """Reads the text that A1111 and Forge write into a PNG's `parameters` chunk, as far as it goes.

    Raises:
        ValueError: It does not have that form.
    """
    body, found, last = text.rpartition("\nSteps: ")
    if not found:
        raise ValueError("no line of settings")
    pairs = {key: _unquoted(value) for key, value in _PAIR.findall(f"Steps: {last}")}
    prompt, _, negative = body.partition("\nNegative prompt: ")
    tagged = lora_tags(prompt)
    settings: dict[str, Any] = {"negative": negative} if negative else {}
    for key, name in _NAMES.items():
        if key in pairs:
            settings[name] = pairs.pop(key)
    notes = list(_sampler(pairs, settings))
    if "hires" not in settings and "Denoising strength" in pairs:
        settings["strength"] = pairs.pop("Denoising strength")
    elif "hires" in settings:
        settings["hires_strength"] = pairs.pop("Denoising strength", 0.5)
        latent = pairs.pop("Hires upscaler", "Latent").startswith("Latent")
        settings["hires_upscaler"] = "latent" if latent else "lanczos"
    if model := pairs.get("Model"):
        notes.append(f"The picture was made with a model called {model}: give it with --model.")
    unused = [f"{more} of a LoRA" for more in tagged.unread]
    if unused := [*unused, *(f"{key}: {value}" for key, value in pairs.items() if key not in _SILENT)]:
        notes.append(f"What the picture says and is not followed: {', '.join(unused)}.")
    notes.append("Another program drew its noise, so the picture will be like it, not the same.")
    given: dict[str, Any] = {"init": {}} if "strength" in settings else {}
    return Recorded(path, tagged.prompt, settings, loras=tagged.loras, given=given, notes=tuple(notes))


_NAMES = {
    "Steps": "steps",
    "CFG scale": "guidance",
    "Seed": "seed",
    "Size": "size",
    "Clip skip": "clip_skip",
    "Hires upscale": "hires",
}


def _sampler(pairs: dict[str, str], settings: dict[str, Any]) -> Iterator[str]:
    """Sets the sampler by its title; yields what cannot be followed."""
    title, schedule = pairs.pop("Sampler", ""), pairs.pop("Schedule type", "Automatic")
    for old in ("Karras", "Exponential"):  # before 1.9 it was part of the sampler's name
        if title.endswith(f" {old}"):
            title, schedule = title.removesuffix(f" {old}"), old
    if schedule in ("Karras", "Exponential"):
        settings["sigmas"] = schedule.lower()
    elif schedule != "Automatic":
        yield f"The schedule {schedule} is not known here; the model's own is used."
    names = {row.title: name for name, row in SAMPLERS.items()}
    if title in names:
        settings["scheduler"] = names[title]
        return
    yield f"There is no sampler called {title or 'nothing'!r} here; the default is used."


def _unquoted(value: str) -> str:
    return str(json.loads(value)) if value.startswith('"') else value.strip()
