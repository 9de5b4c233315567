"""How the weights move."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from finetune.config.base import Amount, AmountAboveZero, Fault, Need, Positive, Rate, Section

Factor = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
_Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
_Beta = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]

BETAS, LION_BETAS = (0.9, 0.999), (0.9, 0.99)
EPS = 1e-8
D0, D_COEF = 1e-6, 1.0
RESTARTS_CYCLES, POLYNOMIAL_POWER = 3, 2.0
"""What a setting is that is not given. It is None until then, so that one without effect is noticed."""

PRODIGY_LR, PRODIGY_LEAST_LR = 1.0, 0.1

_ADAMS = ("adamw", "adamw8bit", "paged_adamw8bit", "prodigy", "schedule_free_adamw")


class OptimizerSection(Section):
    """How the weights move."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need("optimizer.betas", "name", (*_ADAMS, "lion")),
        Need("optimizer.eps", "name", _ADAMS),
        Need("optimizer.d0", "name", ("prodigy",)),
        Need("optimizer.d_coef", "name", ("prodigy",)),
        Need("optimizer.schedule_cycles", "schedule", ("cosine_with_restarts",)),
        Need("optimizer.schedule_power", "schedule", ("polynomial",)),
    )

    name: Literal[
        "adamw", "adamw8bit", "paged_adamw8bit", "adafactor", "lion", "prodigy", "schedule_free_adamw"
    ] = Field("adamw", description="Which optimizer; docs/optimizers.md compares them.")
    lr: Rate = Field(
        1e-4,
        description="Learning rate of the UNet's parameters (of a ControlNet's, if that is trained). "
        f"Prodigy finds its own and multiplies it by this, {PRODIGY_LR:g} if unset.",
    )
    text_encoder_lr: Rate | None = Field(
        None, description="Learning rate of the text encoders' parameters; `lr` if unset."
    )
    text_encoder_2_lr: Rate | None = Field(
        None, description="That of SDXL's second text encoder; `text_encoder_lr` if unset."
    )
    embedding_lr: Rate | None = Field(
        None, description="Learning rate of the embeddings of new words; `lr` if unset."
    )
    text_encoder_stop: Positive | _Share | None = Field(
        None,
        description="Train the text encoders and new words only for so many steps (a whole number), or for "
        "this share of the run (a number below 1); to the end if unset.",
    )
    block_lr: dict[str, Factor] = Field(
        {},
        description="Factors on `lr` for parts of the UNet by the beginning of their names, such as "
        "`{down_blocks: 0.5, up_blocks.1: 0.1}`; the longest name counts, 0 freezes.",
    )
    betas: tuple[_Beta, _Beta] | None = Field(
        None,
        description=f"β1 and β2; {BETAS[0]:g} and {BETAS[1]:g} if unset, "
        f"{LION_BETAS[0]:g} and {LION_BETAS[1]:g} for Lion.",
    )
    eps: AmountAboveZero | None = Field(None, description=f"ε of the kinds of Adam; {EPS:g} if unset.")
    d0: Rate | None = Field(
        None,
        description=f"The learning rate that Prodigy starts from, {D0:g} if unset; it must lie below the "
        "right one, and the nearer it is, the sooner that is found.",
    )
    d_coef: AmountAboveZero | None = Field(
        None,
        description="Factor on the learning rate that Prodigy estimates, usually 0.5 to 2; "
        f"{D_COEF:g} if unset.",
    )
    weight_decay: Amount = Field(0.01, description="Decoupled weight decay.")
    schedule: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"] = Field(
        "constant", description="How the learning rate goes on after the warm-up."
    )
    schedule_cycles: Positive | None = Field(
        None, description=f"How many cosines cosine_with_restarts has; {RESTARTS_CYCLES} if unset."
    )
    schedule_power: AmountAboveZero | None = Field(
        None, description=f"Power of the polynomial; {POLYNOMIAL_POWER:g} if unset, 1 is linear."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="Steps of linear warm-up.")

    @model_validator(mode="before")
    @classmethod
    def _rate_of_prodigy(cls, values: Any) -> Any:
        # As if the user had set it, so that no preset (they are all for kinds of Adam) sets another.
        if isinstance(values, dict) and values.get("name") == "prodigy":
            return {"lr": PRODIGY_LR, **values}
        return values

    @property
    def averages(self) -> bool:
        """Whether the result is an average of the weights that the optimizer itself keeps."""
        return self.name == "schedule_free_adamw"

    @property
    def knows_length(self) -> bool:
        """Whether the steps of a run depend on how many there are to be."""
        return self.schedule != "constant" or isinstance(self.text_encoder_stop, float)

    def stop_step(self, steps: int) -> int | None:
        """After how many of `steps` the text encoders and new words stay as they are; None for never."""
        stop = self.text_encoder_stop
        return max(1, round(stop * steps)) if isinstance(stop, float) else stop

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        if self.name == "schedule_free_adamw":
            yield from self._not_schedule_free()
        if self.name == "prodigy":
            yield from self._not_prodigy()

    def too_long(self, steps: int) -> Iterator[Fault]:
        """Settings that go beyond a run of `steps`, as in `faults`."""
        if self.warmup_steps > steps:
            yield Fault(
                f"The warm-up ({self.warmup_steps} steps) is longer than the run ({steps} steps).",
                "optimizer.warmup_steps",
                "Make it shorter, or raise training.steps.",
            )
        if isinstance(self.text_encoder_stop, int) and self.text_encoder_stop >= steps:
            yield Fault(
                f"The text encoders stop after {self.text_encoder_stop} steps, but the run has {steps}.",
                "optimizer.text_encoder_stop",
                "Make it shorter, or remove it.",
            )

    def not_trained(self, *, text: bool, word: bool) -> Iterator[Fault]:
        """Learning rates of what a run does not train: its text encoders, a word beside something else."""
        for key in ("text_encoder_lr", "text_encoder_2_lr"):
            if getattr(self, key) is not None and not text:
                yield Fault(
                    "A learning rate is given for the text encoder, but it is not trained.",
                    f"optimizer.{key}",
                    f"Set adapter.text_encoder=true, or remove optimizer.{key}.",
                )
        if self.embedding_lr is not None and not word:
            yield Fault(
                "A learning rate is given for a new word, but none is learned beside something else.",
                "optimizer.embedding_lr",
                "Remove it (of a word alone it is optimizer.lr), or name a word with adapter.placeholder.",
            )

    def _not_schedule_free(self) -> Iterator[Fault]:
        if self.schedule != "constant":
            yield Fault(
                "Schedule-free AdamW averages the weights instead of lowering the learning rate.",
                "optimizer.schedule",
                "Leave it constant (a warm-up is fine), or use optimizer.name=adamw.",
            )
        if self.betas is not None and self.betas[0] == 0:
            yield Fault(
                "Schedule-free AdamW cannot do with a β1 of 0: gradients are taken between its average and "
                "its latest weights.",
                "optimizer.betas",
                "Give a β1 above 0; 0.9 is usual.",
            )

    def _not_prodigy(self) -> Iterator[Fault]:
        if self.lr < PRODIGY_LEAST_LR:
            yield Fault(
                f"Prodigy finds the learning rate itself and multiplies it by optimizer.lr; with {self.lr:g} "
                "it would hardly learn.",
                "optimizer.lr",
                f"Leave it out, or set {PRODIGY_LR:g}; optimizer.d_coef scales the estimate.",
            )
        for key in ("text_encoder_lr", "text_encoder_2_lr", "embedding_lr"):
            if getattr(self, key) not in (None, self.lr):
                yield Fault(
                    "Prodigy has one learning rate for everything that is trained.",
                    f"optimizer.{key}",
                    f"Remove it, or use another optimizer than {self.name}.",
                )
        if any(factor not in (0, 1) for factor in self.block_lr.values()):
            yield Fault(
                "Prodigy has one learning rate for everything that is trained: a factor can only be 0 or 1.",
                "optimizer.block_lr",
                f"Use 0 to freeze parts, or use another optimizer than {self.name}.",
            )
