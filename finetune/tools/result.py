"""Writing what a tool has made: never over something else, and with how it was made (P2, P7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.adapters.weights import LoRAWeights
from finetune.backbones import Backbone
from finetune.errors import ConfigError
from finetune.formats import write_lora
from finetune.formats.metadata import as_text
from finetune.formats.read import DIFFUSERS_FILE
from finetune.formats.write import OF_THE_TENSORS, Layout
from finetune.tools.source import Source
from finetune.version import __version__

MADE_BY = "finetune.made_by"


@dataclass(frozen=True)
class Target:
    """The file to write.

    Attributes:
        path: Where.
        layout: Whose key names.
        dtype: Of the weights; that of the first input if None.
        force: Whether a file that is there is replaced.
    """

    path: Path
    layout: Layout = "kohya"
    dtype: torch.dtype | None = None
    force: bool = False

    def check(self) -> None:
        """Makes sure, before long work, that the file may be written.

        Raises:
            ConfigError: If there is something that must not be replaced.
        """
        if self.path.is_dir():
            raise ConfigError("There is a folder of this name.", where=str(self.path), fix="Name a file.")
        if self.path.suffix != ".safetensors":
            raise ConfigError(
                "LoRA files are named .safetensors.",
                where=str(self.path),
                fix=f"Write {self.path.with_name(self.path.name + '.safetensors')}.",
            )
        if self.path.exists() and not self.force:
            raise ConfigError(
                "This already exists, and results are never overwritten.",
                where=str(self.path),
                fix="Give a name that does not exist yet, or replace it with --force.",
            )

    def write(
        self, weights: LoRAWeights, backbone: Backbone, made: Mapping[str, Any], sources: Sequence[Source]
    ) -> None:
        """Writes plain LoRAs, with the metadata in `weights` and how they were made.

        Args:
            weights: Layers without DoRA magnitudes, and the metadata that still holds.
            backbone: The model, for the names.
            made: The tool and its settings.
            sources: What it was made from.

        Raises:
            WeightsError: If a weight is not finite in this precision; nothing is written then.
        """
        metadata = dict(weights.metadata)
        for name in ("ss_output_name", "modelspec.title"):  # A1111 lists LoRAs by the first
            if name in metadata or name == "ss_output_name":
                metadata[name] = self.path.stem
        kept = {key: value for key, value in metadata.items() if key not in (MADE_BY, *OF_THE_TENSORS)}
        about = {**made, "version": __version__, "inputs": [_about(source, kept) for source in sources]}
        dtype = self.dtype or (sources[0].dtype if sources else torch.float32)
        write_lora(
            self.path, weights, backbone, kept | as_text({MADE_BY: about}), layout=self.layout, dtype=dtype
        )


def _about(source: Source, kept: Mapping[str, str]) -> dict[str, Any]:
    """One input: its name, its hash, and what of its metadata the new file lacks."""
    own = {key: value for key, value in source.weights.metadata.items() if kept.get(key) != value}
    file = source.file
    # Every run has a file of this name: its folder's tells which one it is.
    name = f"{file.resolve().parent.name}/{file.name}" if file.name == DIFFUSERS_FILE else file.name
    return {"file": name, "sha256": source.digest, "weight": source.weight, "metadata": own}
