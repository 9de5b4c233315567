"""The pretrained model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from typing_extensions import Self

from finetune.config.base import Fault, Section
from finetune.errors import ConfigError

Quantization = Literal["none", "int8", "nf4"]


class ModelSection(Section):
    """The pretrained model that is trained further."""

    name: str = Field(
        "auto",
        description="A diffusers folder, a Hub id, a single-file .safetensors checkpoint, or an "
        "alias: storybook, sd15, sd21, sdxl. `auto` is sd15 on a GPU and storybook without one.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub id.")
    prediction_type: Literal["auto", "epsilon", "v_prediction", "sample"] = Field(
        "auto",
        description="What the UNet predicts; `auto` reads it from the model. Needed only for "
        "single-file checkpoints that do not record it.",
    )
    vae: Path | None = Field(
        None,
        description="A VAE in place of the model's own: a diffusers folder of a model or of a VAE, or a "
        "single file. Needed where a checkpoint has none.",
    )
    vae_precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="What the VAE's large convolutions multiply in; all else in it is fp32. `auto` is bf16 "
        "where the UNet computes in bf16 and the machine does too: on a CPU with AMX two to three times as "
        "fast at SD 1.5's size; storybook's pictures differ by a tenth of one of 256 levels.",
    )
    text_encoders: Path | None = Field(
        None,
        description="Text encoders in place of the model's own: a diffusers folder of a model of its family, "
        "or a run folder. Needed where a checkpoint has none.",
    )
    ema: bool = Field(
        False,
        description="Use the averaged (EMA) weights of a single-file checkpoint that has both.",
    )
    max_tokens: Literal[77, 150, 225] = Field(
        77,
        description="Longest caption in tokens. 150 and 225 are two and three pieces of 75, each encoded by "
        "itself, as A1111 does with long prompts.",
    )
    quantize: Quantization = Field(
        "none",
        description="Round the UNet's weights to 8 bits (`int8`) or 4 bits (`nf4`): about half and a third "
        "of the memory that they take in half precision, but slower. For sampling, and for training what "
        "leaves them as they are: lora, distill, embedding.",
    )
    allow_pickle: bool = Field(
        False, description="Also load .ckpt, .bin and .pt weights (weights only, no code)."
    )

    def unrounded(self, why: str) -> Iterator[Fault]:
        """The fault of rounding weights that are needed as they are.

        Args:
            why: What needs them, as a sentence.
        """
        if self.quantize != "none":
            yield Fault(
                why,
                "model.quantize",
                "Leave it out; it is for sampling, and for training a LoRA or a new word.",
            )

    @classmethod
    def named(cls, name: str) -> Self:
        """The model that a user names outside a recipe.

        Raises:
            ConfigError: If the name is not valid.
        """
        try:
            return cls(name=name)
        except ValidationError as error:
            raise ConfigError(
                f"The name of a model must be {error.errors()[0]['msg']}, not {name[:80]!r}.",
                where="--model",
                fix="Give a folder, a file, a Hub id or an alias.",
            ) from None


def public_name(name: str) -> str:
    """A model's name in shared files: of a path only the last part, since folders are private."""
    path = Path(name).expanduser()
    return path.resolve().name if path.is_absolute() or path.exists() else name
