"""Class pictures for prior preservation: existing ones, and sampled ones for those missing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from PIL import Image

from finetune.backbones.fingerprint import fingerprint
from finetune.backbones.precision import PRECISIONS, best_device
from finetune.config import SourceSection, SubjectSection, public_name
from finetune.data import Folder, scan_class_sources, scan_folder
from finetune.data.folder import list_pictures
from finetune.data.notes import count
from finetune.data.read import Reader
from finetune.data.rows import is_dataset
from finetune.data.several import joined
from finetune.data.streams.opening import is_stream
from finetune.errors import ConfigError, DataError
from finetune.files import remove_partials
from finetune.recipes.place import RUNS
from finetune.recipes.reporter import Reporter
from finetune.sampling import Sampler
from finetune.sampling.output import slug
from finetune.sampling.png import write_png

if TYPE_CHECKING:
    from finetune.backbones import Backbone

_SAMPLED = re.compile(r"class-(\d{5,})\.png")


def default_folder(prompt: str, size: int, precisions: tuple[str, str], backbone: Backbone) -> Path:
    """Where class pictures are kept: named by everything they are made from (P4).

    Args:
        prompt: The class prompt.
        size: Side in pixels.
        precisions: Of the sampling, and of its VAE.
        backbone: The model, not trained yet.
    """
    facts = [backbone.unet.config, backbone.fingerprint_vae(), backbone.fingerprint_text()]
    precision = " ".join(precisions).removesuffix(" fp32")  # as it was before there were two
    facts += [prompt, f"{size} {precision}", Path(backbone.name).name]
    return RUNS / "class-pictures" / f"{slug(prompt)}-{fingerprint([backbone.unet], facts)[:12]}"


def class_pictures(data: SubjectSection, backbone: Backbone, precision: str, report: Reporter) -> Folder:
    """The class pictures of a run: those of `data.sources`, and those that the class prompt asks for.

    Raises:
        ConfigError: If the folder holds pictures that were sampled with another model or prompt.
        DataError: If a picture cannot be read or has no caption.
    """
    given: list[tuple[SourceSection, Folder]] = []
    if data.class_sources:
        with report.progress("Reading class pictures") as progress:
            given = scan_class_sources(data, Reader.of(data, progress))
    if data.class_prompt is None:
        return joined(given)
    number = sum(len(folder.pictures) for _, folder in given)
    prompted = _prompted(data, number, backbone, precision, report)
    return joined([*([(None, prompted)] if prompted else []), *given])


def _prompted(
    data: SubjectSection, number: int, backbone: Backbone, precision: str, report: Reporter
) -> Folder | None:
    """The pictures in the class folder; missing ones are sampled and kept.

    The k-th sampled picture has seed k, whatever the run, and is written at once: interrupted sampling
    continues where it stopped, and all runs share the pictures.

    Args:
        data: With `class_prompt` and `class_dir` set.
        number: Class pictures that there are already.
        backbone: The model, not trained yet.
        precision: Precision of the sampling.
        report: Tells the user what is done.

    Returns:
        None if there are none, since there are enough already.

    Raises:
        ConfigError: If the folder holds pictures that were sampled with another model or prompt.
        DataError: If a picture cannot be read, or the folder is a data set.
    """
    assert data.class_prompt is not None and data.class_dir is not None
    folder = data.class_dir.expanduser()
    if is_dataset(folder) or is_stream(folder, data):
        fix = "Give a folder of pictures, or one that is new."
        raise DataError("Class pictures cannot be a data set of `datasets`.", where=str(folder), fix=fix)
    found = list_pictures(folder, data).found if folder.is_dir() else ()
    own = [one.path for one in found if not _SAMPLED.fullmatch(one.path.name)]
    seeds = range(max(0, data.num_class_images - number - len(own)))
    if not own and not seeds:
        return None
    # Only the main process samples; the others then find all pictures.
    with PartialState().main_process_first():
        sampler = Sampler(backbone, best_device(), precision)
        _sample_missing(data, folder, seeds, sampler, PRECISIONS[precision], report)
    with report.progress("Reading class pictures") as progress:
        scanned = scan_folder(folder, data.class_prompt, data.of_class(), Reader.of(data, progress))
    wanted = {*own, *(folder / _name(seed) for seed in seeds)}
    return replace(scanned, pictures=tuple(p for p in scanned.pictures if p.origin in wanted))


def _name(seed: int) -> str:
    return f"class-{seed:05}.png"


def _sample_missing(
    data: SubjectSection,
    folder: Path,
    seeds: Sequence[int],
    sampler: Sampler,
    dtype: torch.dtype,
    report: Reporter,
) -> None:
    prompt, size = str(data.class_prompt), data.resolution or sampler.backbone.native_size
    model = Path(public_name(sampler.backbone.name)).name  # as the picture's metadata has it
    made = {"prompt": prompt, "size": [size, size], "model": model}
    missing = []
    for seed in seeds:
        if (folder / _name(seed)).exists():
            _check(folder / _name(seed), made)
        else:
            missing.append(seed)
    if not missing:
        return
    report.tell(f'Sampling {count(len(missing), "picture")} of "{prompt}" into {folder}.')
    sampler.backbone.to("cpu", dtype)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    at_once = sampler.most_at_once((size, size))
    with report.progress("Sampling class pictures") as progress:
        for start in range(0, len(missing), at_once):
            chunk = missing[start : start + at_once]
            for sample in sampler([prompt] * len(chunk), seed=chunk, size=size, emphasis="none"):
                write_png(sample.image, folder / _name(sample.seed), sample.info())
            progress(start + len(chunk), len(missing))


def _check(file: Path, made: dict[str, Any]) -> None:
    """Refuses a picture made with another prompt, size or model: it would pass for this class.

    Raises:
        ConfigError: If its metadata differs from `made`.
    """
    try:
        with Image.open(file) as image:
            stored = json.loads(image.info.get("finetune", "{}"))["samples"][0]
        stored["model"] = Path(stored["model"]).name
    except (OSError, ValueError, KeyError, IndexError):
        stored = {}
    different = [key for key, value in made.items() if stored.get(key) != value]
    if different:
        raise ConfigError(
            f"This class picture was sampled with another {' and '.join(different)}.",
            where=str(file),
            fix="Give another data.class_dir, or remove the class-*.png files from this one.",
        )
