"""What is known of a model before it is loaded: enough to look at data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from finetune.backbones.checkpoint import family_of_checkpoint, read_header
from finetune.backbones.clip_vocabulary import clip_tokenizers
from finetune.backbones.families import Family, family_of
from finetune.backbones.folder import load_tokenizer
from finetune.backbones.part import read_json
from finetune.backbones.resolve import location, published_family
from finetune.config import ModelSection


@dataclass(frozen=True)
class Outline:
    """A model without its weights.

    Attributes:
        family: Its family.
        native_size: Side in pixels that it was trained at.
        factor: Pixels per latent along a side.
        tokenizers: Those that differ in how they split a text.
        tokens: Of a piece of a caption, begin and end included.
        assumed: Whether all of this is a guess: the model is not on this machine.
    """

    family: Family
    native_size: int
    factor: int
    tokenizers: Sequence[Any]
    tokens: int = 77
    assumed: bool = False


def outline(section: ModelSection) -> Outline:
    """Looks at a model's configuration; nothing is downloaded and no weights are read.

    Args:
        section: The model, its name resolved.

    Raises:
        ModelError: If there is something by that name that is not a supported model.
    """
    path = Path(location(section.name)).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _published(family_of_checkpoint(read_header(path, section.allow_pickle), str(path)))
    family = published_family(section.name)
    return _published(family or "sd1", assumed=family is None)


def _of_folder(path: Path) -> Outline:
    unet, vae = (read_json(path / part / "config.json") for part in ("unet", "vae"))
    tokenizer = load_tokenizer(path / "tokenizer")
    family = family_of(read_json(path / "model_index.json"), unet, str(path))
    return Outline(family, *_sizes(unet, vae), (tokenizer,), int(tokenizer.model_max_length))


def _published(family: Family, *, assumed: bool = False) -> Outline:
    with as_file(files("finetune.backbones").joinpath("published", family)) as configs:
        unet, vae = (read_json(configs / part / "config.json") for part in ("unet", "vae"))
    return Outline(family, *_sizes(unet, vae), clip_tokenizers(family)[:1], assumed=assumed)


def _sizes(unet: dict[str, Any], vae: dict[str, Any]) -> tuple[int, int]:
    """Native size and factor."""
    # The VAE halves the sides between its levels.
    factor: int = 2 ** (len(vae["block_out_channels"]) - 1)
    return int(unet["sample_size"]) * factor, factor
