"""PNG files that say how they were made."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from finetune.config.samplers import SAMPLERS
from finetune.files import partial_name, whole_file
from finetune.version import __version__

Info = Mapping[str, Any]


def parameters(info: Info) -> str:
    """The text that A1111 and Forge write into a PNG's `parameters` chunk, and read back.

    ```
    PROMPT <lora:NAME:WEIGHT>
    Negative prompt: NEGATIVE
    Steps: 25, Sampler: DPM++ 2M, CFG scale: 5, Seed: 0, Size: 64x64, Model: storybook
    ```

    Args:
        info: What `Sample.info` gives.
    """
    lines = [" ".join([info["prompt"], *(f"<lora:{name}:{weight:g}>" for name, weight in info["loras"])])]
    if info["negative"]:
        lines.append(f"Negative prompt: {info['negative']}")
    width, height = info["size"]
    settings = {
        "Steps": info["steps"],
        "Sampler": SAMPLERS[info["scheduler"]].title,
        **_SCHEDULE.get(info.get("sigmas", "model"), {}),
        "CFG scale": f"{info['guidance']:g}",
        "Seed": info["seed"],
        "Size": f"{width}x{height}",
        "Model": info["model"],
        **({"Clip skip": info["clip_skip"]} if info.get("clip_skip", 1) != 1 else {}),
        **_strengths(info),
        **{f"ControlNet {i}": _control(c) for i, c in enumerate(info.get("controlnets", ()))},
        "Version": f"finetune {__version__}",
    }
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items()))
    return "\n".join(lines)


# As A1111 names the spacing of noise levels.
_SCHEDULE = {name: {"Schedule type": name.title()} for name in ("karras", "exponential")}


def _strengths(info: Info) -> dict[str, str]:
    """As A1111 writes them for pictures from pictures and for its high-resolution fix."""
    if "hires" not in info:
        return {"Denoising strength": f"{info['strength']:g}"} if "strength" in info else {}
    return {
        "Denoising strength": f"{info['hires_strength']:g}",
        "Hires upscale": f"{info['hires']:g}",
        "Hires upscaler": info["hires_upscaler"].title(),
    }


def _control(control: Mapping[str, Any]) -> str:
    """As A1111's ControlNet extension writes it."""
    return (
        f"Module: {control['preprocess']}, Model: {control['name']}, Weight: {control['scale']:g}, "
        f"Guidance Start: {control['start']:g}, Guidance End: {control['end']:g}"
    )


def _quoted(value: object) -> str:
    """A value that contains a separator is quoted as JSON, as A1111 does."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",:\n") else text


def _chunks(infos: Sequence[Info], places: Sequence[Sequence[int]]) -> PngInfo:
    """`parameters` of the first picture; `finetune`: JSON of the picture, or of all pictures of a grid."""
    chunks = PngInfo()
    if infos:
        chunks.add_text("parameters", parameters(infos[0]))
        record: dict[str, Any] = {"version": __version__, "samples": [dict(info) for info in infos]}
        if places:
            record["places"] = [list(place) for place in places]
        chunks.add_text("finetune", json.dumps(record, ensure_ascii=False))
    return chunks


def write_png(image: Image.Image, path: Path, *infos: Info, places: Sequence[Sequence[int]] = ()) -> Path:
    """Writes a PNG whole or not at all, replacing `path` if it exists.

    Args:
        image: The picture.
        path: Where to.
        infos: What `Sample.info` gives, for each picture that `image` shows.
        places: Where in `image` each of them is (left, top, right, bottom), if that is to be told.
    """
    with whole_file(path) as aside:
        image.save(aside, format="PNG", pnginfo=_chunks(infos, places))
    return path


def save_png(image: Image.Image, path: Path, *infos: Info) -> Path:
    """Writes a PNG whole or not at all and never over an existing file.

    Args:
        image: The picture.
        path: Where to; if it exists, the next free `NAME-2.png`, `NAME-3.png` … is taken.
        infos: What `Sample.info` gives, for each picture that `image` shows.

    Returns:
        Where it was written.
    """
    aside = partial_name(path)
    write_png(image, aside, *infos)
    try:
        name, number = path, 1
        while not _put(aside, name):
            number += 1
            name = path.with_name(f"{path.stem}-{number}{path.suffix}")
        return name
    finally:
        aside.unlink(missing_ok=True)


def _put(aside: Path, path: Path) -> bool:
    """Gives the finished file its name unless that is taken, in one step, so two processes can race."""
    if path.exists():
        return False
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        os.replace(aside, path)
    return True
