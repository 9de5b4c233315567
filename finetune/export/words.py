"""A new word in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from finetune.backbones.tensors import read_names
from finetune.backbones.words import Word
from finetune.errors import WeightsError
from finetune.export.job import Job
from finetune.formats import read_embedding, read_lora, write_embedding
from finetune.formats.embeddings import learned_words


def write_word_file(job: Job) -> str:
    """A word that was learned alone, for A1111 and others."""
    file = learned_words(job.source) or job.source
    _, metadata = read_names(file)
    return _write(job, read_embedding(job.source, job.backbone), metadata)


def write_word_of_lora(job: Job) -> str:
    """The word that was learned with a LoRA.

    Raises:
        WeightsError: If it has none, or several.
    """
    weights = read_lora(job.source, job.backbone)
    if len(weights.words) != 1:
        found = ", ".join(word.text for word in weights.words)
        raise WeightsError(
            f"There are several words: {found}." if found else "No new word was learned with this LoRA.",
            where=str(job.source),
            fix="Give a run that learned one (`finetune embedding`, or --placeholder).",
        )
    return _write(job, weights.words[0], weights.metadata)


def _write(job: Job, word: Word, metadata: Mapping[str, str]) -> str:
    rows = tuple(row.to(job.dtype) for row in word.rows)
    write_embedding(job.out, replace(word, rows=rows), job.told(metadata), named=False)
    return f"A1111, Forge and ComfyUI use it by its file's name, this program with --embedding {job.out}."
