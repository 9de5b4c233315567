"""What is sampled with besides a model: LoRAs, new words and ControlNets, as the command line names them.

Nothing here imports torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from finetune.config import ControlKind
from finetune.errors import ConfigError

LoRASpec = str | Path | tuple[str | Path, float]
EmbeddingSpec = str | Path | tuple[str | Path, str | None]


def parse_lora(text: LoRASpec) -> tuple[Path, float]:
    """Reads `PATH` or `PATH:WEIGHT`, e.g. "runs/mycat-lora:0.8"; the weight is 1 if not given.

    Raises:
        ConfigError: The weight is not a finite number.
    """
    if isinstance(text, tuple):
        path, weight = Path(text[0]), float(text[1])
    elif isinstance(text, Path) or Path(text).exists() or ":" not in text:
        # A file whose own name ends in ":0.5" is taken as it is.
        path, weight = Path(text), 1.0
    else:
        head, _, tail = text.rpartition(":")
        try:
            path, weight = Path(head), float(tail)
        except ValueError:
            # A drive letter, or a colon inside a file name that does not exist; reading it will say so.
            path, weight = Path(text), 1.0
    if not math.isfinite(weight):
        raise ConfigError(
            f"The weight {weight} of a LoRA is not a finite number.",
            where=f"--lora {text}",
            fix="Give a weight such as 0.8, or leave it out for 1.",
        )
    return path, weight


def parse_embedding(text: EmbeddingSpec) -> tuple[Path, str | None]:
    """Reads `PATH` or `PATH:WORD`, e.g. "easy.safetensors:<easy>"; the file's own word if none is given."""
    if isinstance(text, tuple):
        return Path(text[0]), text[1]
    # A colon may be part of a path that exists, and of a drive's.
    if isinstance(text, Path) or Path(text).exists() or not Path(text.rpartition(":")[0]).exists():
        return Path(text), None
    head, _, word = text.rpartition(":")
    return (Path(head), word) if head and word else (Path(text), None)


@dataclass(frozen=True)
class ControlSpec:
    """A ControlNet to sample with.

    Attributes:
        path: A diffusers folder, a run folder or a file.
        scale: How strongly it acts; 0 is off, 1 as trained.
        start: Share of the sampling steps after which it begins to act.
        end: Share of the sampling steps after which it stops acting.
        preprocess: How its control picture is made from the one that is given.

    Raises:
        ConfigError: If a value is out of range.
    """

    path: Path
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    preprocess: ControlKind = "none"

    @property
    def span(self) -> tuple[float, float]:
        """The part of the steps in which it acts."""
        return self.start, self.end

    def __post_init__(self) -> None:
        """Checks the values, before a model is loaded."""
        if not math.isfinite(self.scale):
            raise ConfigError(
                f"The scale {self.scale} of a ControlNet is not a finite number.",
                where=str(self.path),
                fix="Give a scale such as 0.8, or leave it out for 1.",
            )
        if not 0 <= self.start < self.end <= 1:
            raise ConfigError(
                f"A ControlNet cannot act from {self.start:g} to {self.end:g} of the steps.",
                where=str(self.path),
                fix="Give shares between 0 and 1, the start before the end.",
            )
