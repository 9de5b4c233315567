"""The settings of `finetune sample`: those of a sampler's call, and what else the command does."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune.sampling.settings import SamplingSection


class SampledSection(SamplingSection):
    """How `finetune sample` makes pictures: also in which precision, which a `Sampler` is made with."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = Field(
        None,
        description="Precision to compute in; `auto` is bf16 or fp16 on a GPU, and on a CPU what is fastest. "
        "`auto` if unset; with --from, that of the picture.",
    )
    filmstrip: Annotated[int, Field(ge=2, le=100)] | None = Field(
        None, description="Also write so many moments of each picture's denoising, as a strip."
    )
