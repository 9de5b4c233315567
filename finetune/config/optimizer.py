"""The optimizer and its learning rates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from finetune.config.base import Amount, AmountAboveZero, Fault, Need, Positive, Rate, Section
from finetune.config.optimizers import (
    BETAS,
    D0,
    D_COEF,
    EPS,
    LION_BETAS,
    OPTIMIZERS,
    PRODIGY_LR,
    Optimizer,
)
from finetune.config.training import TrainingSection

Factor = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
_Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
_Beta = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]

RESTARTS_CYCLES, POLYNOMIAL_POWER = 3, 2.0
"""Defaults of settings that are None if not given, so that one given without effect is noticed."""


class OptimizerSection(Section):
    """The optimizer and its learning rates."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need("optimizer.schedule_cycles", "schedule", ("cosine_with_restarts",)),
        Need("optimizer.schedule_power", "schedule", ("polynomial",)),
    )

    name: Annotated[str, OPTIMIZERS] = Field(
        "adamw", description="Which optimizer; docs/optimizers.md compares them."
    )
    lr: Rate = Field(
        1e-4,
        description="Learning rate of the UNet (of the ControlNet, if one is trained). "
        f"Prodigy multiplies its own estimate by this, {PRODIGY_LR:g} if unset.",
    )
    text_encoder_lr: Rate | None = Field(
        None, description="Learning rate of the text encoders; `lr` if unset."
    )
    text_encoder_2_lr: Rate | None = Field(
        None, description="Learning rate of SDXL's second text encoder; `text_encoder_lr` if unset."
    )
    embedding_lr: Rate | None = Field(
        None, description="Learning rate of the embeddings of new words; `lr` if unset."
    )
    text_encoder_stop: Positive | _Share | None = Field(
        None,
        description="Stop training the text encoders and new words after this many steps (a whole number) or "
        "this share of the run (a number below 1); never if unset.",
    )
    block_lr: dict[str, Factor] = Field(
        {},
        description="Factors on `lr` by name prefix of UNet modules, such as "
        "`{down_blocks: 0.5, up_blocks.1: 0.1}`; the longest match counts, 0 freezes.",
    )
    betas: tuple[_Beta, _Beta] | None = Field(
        None,
        description=f"β1 and β2; {BETAS[0]:g} and {BETAS[1]:g} if unset, "
        f"{LION_BETAS[0]:g} and {LION_BETAS[1]:g} for Lion.",
    )
    eps: AmountAboveZero | None = Field(None, description=f"ε of the Adam variants; {EPS:g} if unset.")
    d0: Rate | None = Field(
        None,
        description=f"Learning rate that Prodigy starts from, {D0:g} if unset; it must be below the right "
        "one, which is found sooner from a closer one.",
    )
    d_coef: AmountAboveZero | None = Field(
        None,
        description="Factor on the learning rate that Prodigy estimates, usually 0.5 to 2; "
        f"{D_COEF:g} if unset.",
    )
    weight_decay: Amount = Field(0.01, description="Decoupled weight decay.")
    schedule: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"] = Field(
        "constant", description="Learning-rate schedule after the warmup."
    )
    schedule_cycles: Positive | None = Field(
        None, description=f"Cycles of cosine_with_restarts; {RESTARTS_CYCLES} if unset."
    )
    schedule_power: AmountAboveZero | None = Field(
        None, description=f"Power of the polynomial; {POLYNOMIAL_POWER:g} if unset, 1 is linear."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="Steps of linear warmup.")

    in_backward: bool = Field(
        False,
        description="Step each weight inside the backward pass and free its gradient at once: less memory. "
        "Without clipping and accumulation.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_rate(cls, values: Any) -> Any:
        # As if the user had set it, so that no preset (all are for Adam variants) overrides it.
        if isinstance(values, dict) and isinstance(name := values.get("name"), str):
            lr = OPTIMIZERS[name].lr if name in OPTIMIZERS else None
            return values if lr is None else {"lr": lr, **values}
        return values

    @property
    def row(self) -> Optimizer:
        """The row of the optimizer."""
        return OPTIMIZERS[self.name]

    @property
    def averages(self) -> bool:
        """Whether the result is an average of the weights that the optimizer itself keeps."""
        return self.row.averages

    @property
    def knows_length(self) -> bool:
        """Whether a step depends on how many the run has in all."""
        return self.schedule != "constant" or isinstance(self.text_encoder_stop, float)

    def stop_step(self, steps: int) -> int | None:
        """The step after which the text encoders and new words are frozen; None for never."""
        stop = self.text_encoder_stop
        return max(1, round(stop * steps)) if isinstance(stop, float) else stop

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        yield from self.row.faults(self)

    def unfit(self, training: TrainingSection) -> Iterator[Fault]:
        """Faults of steps inside the backward pass that the training loop does not allow."""
        if not self.in_backward:
            return
        where = "optimizer.in_backward"
        if not self.row.separable:
            yield Fault(
                f"{self.name} needs all gradients at once, so it cannot step inside the backward pass.",
                where,
                "Set it to false, or use another optimizer, such as adamw_bf16.",
            )
        if training.max_grad_norm is not None:
            yield Fault(
                "Inside the backward pass gradients cannot be clipped: the norm of all is not known yet.",
                where,
                "Set training.max_grad_norm=null, or optimizer.in_backward=false.",
            )
        if training.accumulation > 1:
            yield Fault(
                "Inside the backward pass gradients cannot be accumulated: each is used and freed at once.",
                where,
                "Set training.accumulation=1 (and a larger batch size), or optimizer.in_backward=false.",
            )
        if training.precision == "fp16":
            yield Fault(
                "Steps inside the backward pass do not work in fp16, whose gradients are scaled.",
                where,
                "Set training.precision=bf16, or optimizer.in_backward=false.",
            )

    def too_long(self, steps: int) -> Iterator[Fault]:
        """Faults of settings that exceed a run of `steps`."""
        if self.warmup_steps > steps:
            yield Fault(
                f"The warmup ({self.warmup_steps} steps) is longer than the run ({steps} steps).",
                "optimizer.warmup_steps",
                "Lower it, or raise training.steps.",
            )
        if isinstance(self.text_encoder_stop, int) and self.text_encoder_stop >= steps:
            yield Fault(
                f"The text encoders stop after {self.text_encoder_stop} steps, but the run has {steps}.",
                "optimizer.text_encoder_stop",
                "Lower it, or remove it.",
            )

    def not_trained(self, *, text: bool, word: bool) -> Iterator[Fault]:
        """Faults of learning rates for what is not trained: text encoders, a word beside other weights."""
        for key in ("text_encoder_lr", "text_encoder_2_lr"):
            if getattr(self, key) is not None and not text:
                yield Fault(
                    "A learning rate is given for the text encoder, but it is not trained.",
                    f"optimizer.{key}",
                    f"Set adapter.text_encoder=true, or remove optimizer.{key}.",
                )
        if self.embedding_lr is not None and not word:
            yield Fault(
                "A learning rate is given for a new word, but none is trained along with other weights.",
                "optimizer.embedding_lr",
                "Remove it (a word alone uses optimizer.lr), or name a word with adapter.placeholder.",
            )
