"""What recipes that teach a new word require of the captions: that they contain it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import DataError

if TYPE_CHECKING:
    from finetune.backbones.words import Word
    from finetune.config import SubjectSection
    from finetune.data import Folder
    from finetune.data.read import Reader


def scan_for(folder: Path | None, word: str, data: SubjectSection, reader: Reader | None = None) -> Folder:
    """Reads the pictures whose captions contain a new word.

    Args:
        folder: The main folder; None for the data set that the settings name, or if there are only others.
        word: The new word.
        data: The recipe's settings; without a prompt, pictures that have no caption get "a photo of WORD".
        reader: How the files are read; as the settings have it if None.

    Raises:
        DataError: If no caption contains the word, or there is nothing to train on.
    """
    from finetune.data import scan_folders
    from finetune.data.notes import count, listing

    default = f"a photo of {word}"
    found = scan_folders(folder, data.instance_prompt or default, data, reader, otherwise=default)
    without = [p.name for p in found.pictures if not all(word in text.lower() for text in p.captions)]
    if not any(word in text.lower() for p in found.pictures for text in p.captions):
        raise DataError(
            f"No caption contains {word}, so there is nothing to learn it from.",
            where=found.places or str(found.path),
            fix=f'Write it into the captions, such as "a photo of {word} on a sofa".',
        )
    if without:
        note = f"{count(len(without), 'caption')} without {word}: {listing(without)}"
        return replace(found, notes=(*found.notes, note))
    return found


def write_word(folder: Path, name: str, word: Word, metadata: dict[str, str]) -> dict[Path, str]:
    """Writes a learned word in both layouts.

    Args:
        folder: The run folder.
        name: Stem of the file for A1111 and others, which is the word in their prompts.
        word: What has been learned.
        metadata: How it was made.

    Returns:
        The files written, each with one line that says what it is for.
    """
    from finetune.formats import DIFFUSERS_EMBEDDING, write_embedding

    metadata = {**metadata, "modelspec.trigger_phrase": word.text}
    if "modelspec.architecture" in metadata:
        family = metadata["modelspec.architecture"].partition("/")[0]
        metadata["modelspec.architecture"] = f"{family}/textual-inversion"
    others, diffusers = folder / f"{name}.safetensors", folder / DIFFUSERS_EMBEDDING
    write_embedding(others, word, metadata, named=False)
    write_embedding(diffusers, word, metadata, named=True)
    return {
        others: f"the word for A1111, Forge, ComfyUI, InvokeAI; in prompts: {name}",
        diffusers: f"the word for diffusers and finetune sample; in prompts: {word.text}",
    }
