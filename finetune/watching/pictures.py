"""Pictures for a page that needs no other file: those trained on, and the previews of a run step by step."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from finetune.data.decode import PictureError, decode_picture, quiet_pillow
from finetune.data.record import read_record
from finetune.files import sha256_of
from finetune.training import RunFolder
from finetune.watching.seen import Seen

MOST_PICTURES, MOST_STEPS, MOST_PROMPTS = 24, 9, 8
"""What is shown at most: pictures trained on, previews of a run, prompts of a preview."""

_SIDE = 384  # pixels, at most
_SECONDS = 1.0  # for the pictures trained on; each is read whole
_BYTES = 64_000_000  # of one such picture
_STEP = "step-*.png"


@dataclass(frozen=True)
class Figure:
    """A picture on the page.

    Attributes:
        source: A data URI.
        width: In pixels.
        height: In pixels.
        caption: Under it.
        name: Of its file, or where it belongs.
    """

    source: str
    width: int
    height: int
    caption: str = ""
    name: str = ""


@dataclass(frozen=True)
class Data:
    """The pictures of a run.

    Attributes:
        figures: Those shown.
        count: Of all.
        captions: How many different ones there are.
        gone: How many of those looked at were not there any more, or have changed.
    """

    figures: tuple[Figure, ...]
    count: int
    captions: int
    gone: int


@dataclass(frozen=True)
class Strip:
    """One prompt over the run, always from the same noise.

    Attributes:
        prompt: What was asked for; empty for whole previews.
        seed: Of the noise; None for whole previews.
        figures: The steps, in order.
    """

    prompt: str
    seed: int | None
    figures: tuple[Figure, ...]


def figure(image: Image.Image, caption: str = "", name: str = "", side: int = _SIDE) -> Figure:
    """A picture as a JPEG in a data URI, reduced to `side` pixels."""
    image = image.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    image.save(packed, format="JPEG", quality=88)
    source = f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"
    return Figure(source, image.width, image.height, caption, name)


def trained_on(run: Seen) -> Data:
    """The pictures of a run that are still where they were, as many as can be read in a second."""
    entries = read_record(run.folder.pictures) or []
    background = str(run.recipe.get("data", {}).get("background", "white"))
    figures: list[Figure] = []
    gone, until = 0, time.monotonic() + _SECONDS
    with quiet_pillow():
        for entry in entries[:MOST_PICTURES]:
            if time.monotonic() > until:
                break
            image = _unchanged(entry, _folders(run.recipe.get("data", {})), background)
            if image is None:
                gone += 1
            else:
                figures.append(figure(image, entry.get("caption", ""), Path(entry["file"]).name))
    captions = len({entry.get("caption", "") for entry in entries})
    return Data(tuple(figures), len(entries), captions, gone)


def _folders(data: Mapping[str, Any]) -> list[Path]:
    """Every folder that the data section of a recipe names."""
    own = [value for key, value in data.items() if isinstance(value, str) and key.endswith("dir")]
    entries = [source for source in data.get("sources") or () if isinstance(source, dict)]
    return [Path(p).expanduser() for p in own] + [folder for source in entries for folder in _folders(source)]


def _unchanged(entry: Mapping[str, str], folders: Sequence[Path], background: str) -> Image.Image | None:
    """The picture of an entry, if a folder still has its bytes."""
    for folder in dict.fromkeys((*folders, *(folder.parent for folder in folders))):
        path = folder / entry["file"]
        try:
            if path.is_file() and path.stat().st_size < _BYTES and sha256_of(path) == entry.get("sha256"):
                return decode_picture(path.read_bytes(), entry.get("background", background)).image
        except (OSError, PictureError):
            continue
    return None


def previews(folder: RunFolder) -> list[Strip]:
    """The previews of a run: a strip for each prompt, or of whole previews that do not say where each is."""
    paths = sorted(folder.samples.glob(_STEP))
    strips: dict[tuple[str, int | None, int], list[Figure]] = {}
    for path in spread(paths, MOST_STEPS):
        for key, image in _parts(path):
            strips.setdefault(key, []).append(figure(image, _step(path), path.name))
    made = [Strip(prompt, seed, tuple(figures)) for (prompt, seed, _), figures in strips.items()]
    return made[:MOST_PROMPTS]


def side_by_side(folders: Mapping[str, RunFolder]) -> list[Strip]:
    """The latest previews of several runs, a strip for each prompt; the figures have the names of the runs.

    Args:
        folders: By the name of the run.
    """
    strips: dict[tuple[str, int | None, int], list[Figure]] = {}
    for name, folder in folders.items():
        for path in sorted(folder.samples.glob(_STEP))[-1:]:
            for key, image in _parts(path):
                side = _SIDE if key[0] else 2 * _SIDE
                strips.setdefault(key, []).append(figure(image, _step(path), name, side))
    made = [Strip(prompt, seed, tuple(figures)) for (prompt, seed, _), figures in strips.items()]
    return sorted(made, key=lambda strip: -len(strip.figures))[:MOST_PROMPTS]


def _step(path: Path) -> str:
    number = path.stem.removeprefix("step-")
    return f"step {int(number):,}" if number.isdecimal() else path.stem


def _parts(path: Path) -> list[tuple[tuple[str, int | None, int], Image.Image]]:
    """The pictures of a preview with prompt, seed and number; all of it if it does not say where they are."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
            told = json.loads(getattr(opened, "text", {}).get("finetune", "{}"))
        samples, places = told.get("samples", []), told.get("places", [])
        if samples and len(samples) == len(places):
            keys = [(str(sample["prompt"]), int(sample["seed"]), n) for n, sample in enumerate(samples)]
            return [(key, image.crop(tuple(box))) for key, box in zip(keys, places, strict=True)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []
    return [(("", None, 0), image)]


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most `most` of several files, evenly, with the first and the last."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(n * (len(paths) - 1) / (most - 1))] for n in range(most)]
