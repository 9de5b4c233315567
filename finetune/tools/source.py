"""The LoRA files that a tool is given, and the structure of the model that they are for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from finetune.adapters.weights import LoRAWeights
from finetune.backbones import Backbone
from finetune.backbones.precision import PRECISIONS
from finetune.backbones.skeleton import published_skeleton, skeleton
from finetune.config import ModelSection
from finetune.errors import ModelError, WeightsError
from finetune.files import sha256_of
from finetune.formats import find_lora, read_lora, read_tensors
from finetune.formats.families import FAMILY_NAMES, made_for


@dataclass(frozen=True)
class Source:
    """A LoRA file that has been read.

    Attributes:
        file: The file.
        weights: What it holds, in fp32.
        weight: What it is multiplied by.
    """

    file: Path
    weights: LoRAWeights
    weight: float = 1.0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file's bytes."""
        return sha256_of(self.file)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The commonest type of its tensors, or fp32 if none is written in that."""
        tensors, _ = read_tensors(self.file)
        common = Counter(tensor.dtype for tensor in tensors.values()).most_common(1)[0][0]
        return common if common in PRECISIONS.values() else torch.float32

    def plain(self) -> LoRAWeights:
        """Its weights, which can be added up and cut.

        Raises:
            WeightsError: If it is a DoRA, which depends on the model's weights, or changes biases or norms.
        """
        if self.weights.vectors:
            part, name = next(iter(self.weights.vectors))
            raise WeightsError(
                f"This file changes biases or norms too ({part}.{name}), which a LoRA of layers cannot hold.",
                where=str(self.file),
                fix="Merge it into a model: finetune merge --into-model, or finetune export --to merged.",
            )
        if self.weights.has_dora:
            rank = max(layer.rank for layer in self.weights.layers.values())
            raise WeightsError(
                "This is a DoRA: how it changes a model depends on the model's own weights.",
                where=str(self.file),
                fix="Turn it into a plain LoRA first: finetune export "
                f"{self.file} --to plain-lora -o FILE --rank {rank}",
            )
        return self.weights


def read_source(path: Path, backbone: Backbone, weight: float = 1.0) -> Source:
    """Reads a LoRA for a model, of which only the structure is used.

    Raises:
        WeightsError: As `read_lora`.
    """
    return Source(find_lora(path), read_lora(path, backbone), weight)


def structure_for(loras: Sequence[Path], given: ModelSection | None, told: ModelSection | None) -> Backbone:
    """The structure, without weights, of the model that LoRAs are for.

    Args:
        loras: Run folders or LoRA files; the first decides.
        given: The model that the user named, its name resolved.
        told: The model that the first file says it was made for; used if it is on this machine. Else
            it is the published model of the family that the file seems to be made for.

    Raises:
        ModelError: If the model that the user named is not here, or nothing tells which it is.
        WeightsError: If one of the files is missing or cannot be read.
    """
    files = [find_lora(lora) for lora in loras]
    if given is not None:
        if (named := skeleton(given)) is None:
            raise ModelError(
                f"There is no model {given.name!r} on this machine.",
                where="--model",
                fix="Give its folder or file, or sd15, sd21 or sdxl for any model of these families.",
            )
        return named
    if told is not None:
        with suppress(ModelError):  # metadata hold a folder's last name, and here that may be something else
            if (own := skeleton(told)) is not None:
                return own
    title = made_for(*read_tensors(files[0]))
    families = {names.title: family for family, names in FAMILY_NAMES.items()}
    if title in families:
        return published_skeleton(families[title])
    if title is not None:
        raise WeightsError(
            f"This file seems to be made for {title}, which is not supported.",
            where=str(files[0]),
            fix=f"Give a file made for {', '.join(families)}.",
        )
    raise WeightsError(
        "Nothing in this file tells which model it is for.",
        where=str(files[0]),
        fix="Name it with --model: sd15, sd21, sdxl, or a model's folder or file.",
    )
