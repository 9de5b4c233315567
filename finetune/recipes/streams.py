"""Runs on streams: what is refused, and the source of their batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from finetune.config import PairsSection, SubjectSection
from finetune.config.base import Fault
from finetune.recipes.faults import raise_faults

if TYPE_CHECKING:
    from finetune.adapters.base import Adapter
    from finetune.backbones import Backbone
    from finetune.data import Folder, PictureSource, PriorSource
    from finetune.data.streams.source import StreamSource
    from finetune.recipes.base import Recipe
    from finetune.recipes.reporter import Reporter
    from finetune.training import RunFolder

RecipeT = TypeVar("RecipeT", bound="Recipe")


def fit_for(pictures: Folder, recipe: RecipeT) -> RecipeT:
    """The recipe as it is carried out on what was scanned: of a stream nothing is kept.

    Raises:
        ConfigError: If it is a stream, and settings need to know all of its pictures beforehand.
    """
    if pictures.stream is None:
        return recipe
    raise_faults(list(_faults(recipe)))
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"cache": False})})


def _faults(recipe: Recipe) -> Iterator[Fault]:
    data = recipe.data
    if recipe.stages:
        yield Fault(
            f"The {recipe.kind} recipe looks at its pictures several times, so it cannot read a stream.",
            f"data.{recipe.folder_field}",
            "Give a folder of pictures.",
        )
    if recipe.training.epochs is not None:
        yield Fault(
            "It is not known how many pictures a stream has, so its epochs cannot be counted beforehand.",
            "training.epochs",
            "Set training.steps.",
        )
    if data.validation:
        yield Fault(
            "A share of a stream cannot be held out.",
            "data.validation",
            "Put some pictures into a folder of their own, and name it with data.validation_dir.",
        )
    if data.variants != type(data).model_fields["variants"].default:
        yield Fault(
            "Nothing of a stream is kept, so there is no end of crops and colors.",
            "data.variants",
            "Leave it out.",
        )
    if data.masked:
        yield Fault(
            "Pictures of a stream have no masks here.",
            "data.mask_dir" if data.mask_dir else "data.mask",
            "Leave it out, or give a folder of pictures.",
        )
    if isinstance(data, SubjectSection) and data.class_prompt is not None:
        yield Fault(
            "Prior preservation is for the pictures of one subject, not for a stream.",
            "data.class_prompt",
            "Leave it out (a LoRA can keep what prompts mean with data.preserve), or give a folder.",
        )
    if isinstance(data, PairsSection) and data.conditioning_dir is not None:
        yield Fault(
            "The control pictures of a stream must be in the stream.",
            "data.conditioning_dir",
            "Put each beside its picture, as NAME.conditioning.png, or set data.preprocess.",
        )


def source_of(
    recipe: Recipe,
    pictures: Folder,
    backbone: Backbone,
    adapter: Adapter,
    folder: RunFolder,
    report: Reporter,
) -> tuple[PictureSource | PriorSource, PictureSource | PriorSource | StreamSource]:
    """The source of what was scanned, for previews; and that of the training, another one for a stream."""
    first = recipe.make_source(pictures, backbone, adapter, report)
    if pictures.stream is None:
        return first, first
    from accelerate import PartialState

    from finetune.data import PictureSource
    from finetune.data.read import Reader
    from finetune.data.streams.source import StreamSource

    def make(block: Folder) -> PictureSource:
        source = recipe.make_source(block, backbone, adapter, report)
        assert isinstance(source, PictureSource)
        return source

    assert isinstance(first, PictureSource)
    size, reader = recipe.data.shuffle_buffer, Reader.of(recipe.data)
    main = PartialState().is_main_process
    return first, StreamSource(first, make, size, reader, folder.stream, write=main)
