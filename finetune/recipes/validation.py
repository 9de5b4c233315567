"""The loss on pictures that are not trained on; it rises when a run begins to learn others by heart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from finetune.adapters import Adapter
from finetune.backbones.precision import PRECISIONS
from finetune.config import SourceSection
from finetune.data import Folder, PictureSource, PriorSource
from finetune.data.holdout import split
from finetune.data.notes import count, listing
from finetune.diffusion.batch import Batch
from finetune.errors import DataError
from finetune.recipes.base import Recipe
from finetune.recipes.reporter import SILENT, Reporter
from finetune.training.metrics import Metrics
from finetune.training.protocols import Hook, Loss
from finetune.training.run_folder import RunFolder
from finetune.training.watcher import Event

_AT_LEAST = 32  # samples: fewer timesteps than that say little
_AS_THEY_ARE: dict[str, Any] = {
    "flip": False,
    "color_jitter": 0.0,
    "crop": "center",
    "caption_dropout": 0.0,
    "extra_resolutions": [],
    "control_dropout": 0.0,
    "class_prompt": None,
    "class_dir": None,
    "sources": (),
    "preserve": [],
}
_CAPTIONS = {"shuffle": False, "tag_dropout": 0.0}


def held_out(recipe: Recipe, pictures: Folder, report: Reporter) -> tuple[Folder, Folder | None]:
    """The pictures to train on and those to validate with, if the settings ask for any.

    Raises:
        DataError: If there are none of either, or those to validate with are a stream.
    """
    data = recipe.data
    if data.validation_dir is not None:
        other: dict[str, Any] = {recipe.folder_field: data.validation_dir, "validation_dir": None}
        other |= {"sources": (), "streaming": False}
        other |= dict.fromkeys(("dataset", "dataset_config", "revision"))
        there = recipe.model_copy(update={"data": data.model_copy(update=other)})
        held = there.scan(report)
        if held.stream is not None:
            raise DataError(
                "Pictures to validate with cannot be a stream.",
                where="data.validation_dir",
                fix="Unpack some of them into a folder of pictures, and give that.",
            )
        return pictures, held
    if not data.validation:
        return pictures, None
    trained, held = split(pictures, data.validation)
    names = listing([picture.name for picture in held.pictures])
    report.tell(f"{count(len(held.pictures), 'picture')} held out for validation: {names}")
    return trained, held


def validation_source(recipe: Recipe, held: Folder, adapter: Adapter) -> PictureSource | PriorSource:
    """The held-out pictures, seen as they are: neither mirrored, jittered nor with captions varied."""
    own = {key: value for key, value in _AS_THEY_ARE.items() if key in type(recipe.data).model_fields}
    data, captions = recipe.data.model_copy(update=own), recipe.captions.model_copy(update=_CAPTIONS)
    plain = recipe.model_copy(update={"data": data, "captions": captions})
    pictures = tuple(replace(p, source=_without_dropout(p.source)) for p in held.pictures)
    return plain.make_source(replace(held, pictures=pictures), adapter.backbone, adapter, SILENT)


def _without_dropout(source: SourceSection | None) -> SourceSection | None:
    return source and source.model_copy(update={"caption_dropout": None})


def make_validation(
    recipe: Recipe,
    source: PictureSource | PriorSource,
    adapter: Adapter,
    objective: Loss[Batch],
    folder: RunFolder,
) -> Hook:
    """Makes the hook that writes the loss on held-out pictures to `validation.jsonl`.

    Each time it is that of the same samples: the same pictures at the same timesteps with the same noise.

    Args:
        recipe: The settings.
        source: Of the held-out pictures.
        adapter: What is trained.
        objective: The loss.
        folder: The run folder.

    Returns:
        A function to call with the step.
    """
    size, dtype = recipe.training.batch_size, PRECISIONS[recipe.training.precision]
    numbers = range(max(_AT_LEAST, len(source.folder.pictures)))
    written: list[Metrics] = []

    @torch.no_grad()
    def hook(step: int) -> Event:
        device, losses = adapter.backbone.device, []
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            for start in range(0, len(numbers), size):
                batches = source.batches(numbers[start : start + size])
                losses += [objective(adapter, batch.to(device)) for batch in batches]
        if not written:
            written.append(Metrics(folder.validation, step - 1))
        loss = float(torch.cat(losses).mean())
        written[0].write(step, validation_loss=loss)
        return Event("validation", folder.validation, loss)

    return hook
