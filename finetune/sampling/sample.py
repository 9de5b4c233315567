"""One picture and everything needed to reproduce it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from finetune.config import public_name
from finetune.config.model import Quantization
from finetune.sampling.png import save_png
from finetune.sampling.settings import SamplingSection


@dataclass(frozen=True)
class Sample:
    """A sampled picture.

    Attributes:
        image: RGB picture of `settings.final_size`.
        prompt: What it was asked to show.
        seed: Seed of its own noise: the same prompt, seed, settings and model give the same picture,
            whatever else was sampled with it (up to the rounding of float sums).
        settings: The settings of the call; `size` is always filled in.
        model: Name of the pretrained model.
        loras: Name and weight of each LoRA, in the order they were added.
        embeddings: New words that were added.
        controls: Name and settings of each ControlNet.
        given: By what they were given for ("init", "mask", "control 0"), name and digest of pictures.
        precision: "fp32", "bf16" or "fp16".
        quantize: What the UNet's weights were rounded to, or "none".
        max_tokens: Tokens of a prompt, if it may be longer than the model's own.
        notes: What the user should know, e.g. that a prompt was truncated.
        frames: Moments of its denoising, if they were asked for: the step, and what the picture was taken
            for then.
    """

    image: Image.Image
    prompt: str
    seed: int
    settings: SamplingSection
    model: str
    loras: tuple[tuple[str, float], ...] = ()
    embeddings: tuple[str, ...] = ()
    controls: tuple[dict[str, Any], ...] = ()
    given: tuple[tuple[str, dict[str, Any]], ...] = ()
    precision: str = "fp32"
    quantize: Quantization = "none"
    max_tokens: int | None = None
    notes: tuple[str, ...] = ()
    frames: tuple[tuple[int, Image.Image], ...] = ()

    def info(self) -> dict[str, Any]:
        """Prompt, seed and settings as plain values, as they go into the PNG's `finetune` chunk.

        Of a model that is a file or folder only the last part of the path is included.
        """
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            **self.settings.recorded(),
            **dict(self.given),
            "model": public_name(self.model),
            "loras": [list(lora) for lora in self.loras],
            **({"embeddings": list(self.embeddings)} if self.embeddings else {}),
            **({"controlnets": list(self.controls)} if self.controls else {}),
            "precision": self.precision,
            **({"quantize": self.quantize} if self.quantize != "none" else {}),
            **({"max_tokens": self.max_tokens} if self.max_tokens else {}),
        }

    def save(self, path: str | Path) -> Path:
        """Writes the picture as a PNG that says how it was made; an existing file is never overwritten.

        Returns:
            Where it was written: `path`, or the next free `NAME-2.png`, `NAME-3.png` ….
        """
        return save_png(self.image, Path(path), self.info())
