"""The settings of a sampling call, each defined once (promise P5).

Nothing here imports torch, so the command line can make its flags and help from these types.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, TypedDict

from pydantic import Field, ValidationError, field_validator

from finetune.config import Positive, SchedulerName, Section
from finetune.config.base import Fault, Fraction, Need
from finetune.config.samplers import SAMPLERS
from finetune.errors import ConfigError

Edge = Literal["left", "top", "right", "bottom"]
Margin = Annotated[int, Field(ge=0, le=8192, multiple_of=8)]
Side = Annotated[int, Field(ge=8, le=8192, multiple_of=8)]


class SamplingSection(Section):
    """How pictures are sampled."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need("sampling.hires_strength", "hires", example="2"),
        Need("sampling.hires_upscaler", "hires", example="2"),
        Need("sampling.to_seed", "between", example="7"),
    )

    negative: str = Field("", description="What the pictures should not show.")
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(25, description="Sampling steps.")
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        5.0,
        description="Classifier-free guidance scale (arXiv:2207.12598): how strictly the prompt is "
        "followed. At 1 or below the prompt alone is used, which takes half the time.",
    )
    scheduler: SchedulerName = Field("dpm++", description="Sampler.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="Seed of the first picture of each prompt; the k-th uses seed + k."
    )
    num: Positive = Field(1, description="Pictures for each prompt.")
    size: tuple[Side, Side] | None = Field(
        None,
        description="Size in pixels, one number or WIDTHxHEIGHT, multiples of 8; the model's own if unset.",
    )
    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None,
        description="How much of the initial picture is changed: the share of the sampling steps that are "
        "done, from as much noise as they remove (SDEdit, arXiv:2108.01073); 0.6 if unset, "
        "1 where it is repainted by a mask.",
    )
    outpaint: dict[Edge, Margin] | None = Field(
        None,
        description="Pixels to add to the initial picture and to paint, such as left=128,right=64; multiples "
        "of 8.",
    )
    sigmas: Literal["model", "karras", "exponential"] = Field(
        "model",
        description="How the noise levels of the steps are spaced: as the model has it, by Karras et al. "
        "(arXiv:2206.00364), or exponentially.",
    )
    spacing: Literal["model", "leading", "trailing", "linspace"] = Field(
        "model",
        description="Which timesteps the steps are at (arXiv:2305.08891, table 2): `trailing` begins with "
        "pure noise, as models with zero terminal SNR want it.",
    )
    rescale: Fraction = Field(
        0.0,
        description="How much guidance is kept from making pictures harsh (arXiv:2305.08891, section 3.4): "
        "the share of the prediction whose deviation is brought back to that without guidance; 0.7 for "
        "models with zero terminal SNR.",
    )
    emphasis: Literal["a1111", "none"] = Field(
        "a1111",
        description="What brackets in prompts mean. `a1111`: (word) is weighed 1.1 times, [word] 1/1.1 "
        "times, (word:1.3) 1.3 times; \\( is a bracket. `none`: brackets.",
    )
    clip_skip: Annotated[int, Field(ge=1, le=12)] = Field(
        1,
        description="At which of the text encoder's last layers to stop, as A1111 counts: 1 is the last that "
        "the model uses, 2 leaves one out.",
    )
    hires: Annotated[float, Field(gt=1, le=8, allow_inf_nan=False)] | None = Field(
        None,
        description="Enlarge each picture by this factor, and sample it once more from there: for pictures "
        "much larger than the model's own.",
    )
    hires_strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        0.5, description="How much is changed once it is enlarged, as `strength`."
    )
    hires_upscaler: Literal["lanczos", "latent"] = Field(
        "lanczos",
        description="What is enlarged: the picture, by Lanczos resampling, or its latents, which are then "
        "blurred and need a strength of 0.5 or more.",
    )

    lora_blocks: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        {},
        description="Weights of all LoRAs by module-name prefix, times their own, such as "
        "{mid_block: 0, up_blocks.1: 0.5, text_encoder: 0}; the longest match counts, 1 for the others. "
        "SDXL has text_encoder_2, too.",
    )
    lora_steps: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0),
        description="Part of the sampling steps in which LoRAs act on the UNet, as shares: `[0, 0.6]` is the "
        "first six tenths.",
    )
    between: Annotated[int, Field(ge=2, le=100)] | None = Field(
        None,
        description="A strip of so many pictures from the first prompt to the second, or from `seed` to "
        "`to_seed`, with both ends.",
    )
    to_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None, description="Seed at the end of that strip; `seed` if unset."
    )

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height of the pictures in pixels; `size` must be set."""
        assert self.size is not None
        width, height = (round(side * (self.hires or 1) / 8) * 8 for side in self.size)
        return width, height

    @property
    def changes_loras(self) -> bool:
        """Whether LoRAs act otherwise than with one weight all the time, and so cannot be merged."""
        return bool(self.lora_blocks) or self.lora_steps != (0, 1)

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        if self.lora_steps[0] >= self.lora_steps[1]:
            yield Fault(
                "LoRAs would act in no step.",
                "sampling.lora_steps",
                "Give the start first, such as [0, 0.6].",
            )

    def check_ends(self, prompts: int) -> None:
        """Makes sure that a strip has two ends.

        Raises:
            ConfigError: There are more or fewer.
        """
        if self.between and (prompts > 2 or (prompts == 1 and self.to_seed is None) or self.num > 1):
            raise ConfigError(
                "A strip is between two prompts, or two seeds of one.",
                where="sampling.between",
                fix="Give two prompts, or one and sampling.to_seed, and leave num out.",
            )

    def recorded(self) -> dict[str, Any]:
        """What a picture's metadata says of them, as plain values: all that had an effect on it."""
        unused = {need.key.partition(".")[2] for need in self.needs if getattr(self, need.other) is None}
        unused |= {"seed", "num", "between", "to_seed"}
        if not self.changes_loras:
            unused |= {"lora_blocks", "lora_steps"}
        values = self.model_dump(mode="json", exclude=unused)
        return {name: value for name, value in values.items() if value is not None}

    @field_validator("size", mode="before")
    @classmethod
    def _read_size(cls, value: Any) -> Any:
        """One number is a square; "64x96" is width and height."""
        if isinstance(value, str):
            value = [part.strip() for part in value.lower().replace("×", "x").split("x")]
            if len(value) == 1:
                value = value * 2
        return (value, value) if isinstance(value, int) else value

    @field_validator("outpaint", mode="before")
    @classmethod
    def _read_margins(cls, value: Any) -> Any:
        """Of "left=128,right=64" the pixels at each side."""
        if not isinstance(value, str):
            return value
        parts = [part.partition("=") for part in value.split(",")]
        return {side.strip(): pixels.strip() for side, _, pixels in parts}


class Choices(TypedDict, total=False):
    """The fields of `SamplingSection` that are keywords of a sampler call; its defaults apply."""

    negative: str
    steps: int
    guidance: float
    scheduler: str
    num: int
    size: int | str | tuple[int, int] | None
    strength: float | None
    outpaint: str | dict[str, int] | None
    sigmas: str
    spacing: str
    rescale: float
    emphasis: str
    clip_skip: int
    hires: float | None
    hires_strength: float
    hires_upscaler: str
    lora_blocks: dict[str, float]
    lora_steps: tuple[float, float]
    between: int | None
    to_seed: int | None


def sampling_section(**values: Any) -> SamplingSection:
    """A validated `SamplingSection`.

    Raises:
        ConfigError: All faults at once, each with its setting; an unknown sampler names the nearest.
    """
    try:
        return SamplingSection(**values)
    except ValidationError as error:
        faults, fixes = [], []
        for fault in error.errors():
            key = str(fault["loc"][0])
            if key in SamplingSection.model_fields:
                faults.append(f"`{key}` cannot be {fault['input']!r}: {_plain(fault['msg'])}.")
            else:
                faults.append(f"There is no sampling setting named `{key}`.")
            fixes.append(_fix(key, values.get(key)))
        raise ConfigError(
            " ".join(dict.fromkeys(faults)),
            where="sampling settings",
            fix=" ".join(dict.fromkeys(fixes)),
        ) from None


def scheduler_fix(name: str) -> str:
    """What to do about a sampler name that does not exist: the nearest one, and all of them."""
    known = list(SAMPLERS)
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1, cutoff=0.4)
    hint = f"Did you mean `{near[0]}`? " if near else ""
    return f"{hint}Choose one of: {', '.join(known)}."


def _plain(message: str) -> str:
    return message.removeprefix("Input ").rstrip(".")


def _fix(key: str, value: object) -> str:
    if key == "scheduler":
        return scheduler_fix(str(value))
    field = SamplingSection.model_fields.get(key)
    if field is None:
        near = difflib.get_close_matches(key, SamplingSection.model_fields, n=1)
        return f"Did you mean `{near[0]}`?" if near else "Leave it out."
    return f"`{key}`: {field.description}"
