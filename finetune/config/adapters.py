"""What is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune.config.algorithms import ALGORITHMS
from finetune.config.base import LONGEST_NAME, AmountAboveZero, Fault, Need, Positive, Section
from finetune.config.optimizer import OptimizerSection
from finetune.config.optimizers import OPTIMIZERS
from finetune.config.training import TrainingSection

Vectors = Annotated[
    int, Field(ge=1, le=75, description="How many tokens the placeholder stands for (textual inversion).")
]
Initializer = Annotated[
    str | None,
    Field(
        description="Words whose token embeddings initialize the new ones, such as the subject's class, cat; "
        "random if unset."
    ),
]


class LoRASection(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) and variants."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need("adapter.conv_alpha", "conv_rank", example="8"),
        Need("adapter.vectors", "placeholder", example="<mycat>"),
        Need("adapter.initializer", "placeholder", example="<mycat>"),
    )

    algorithm: Annotated[str, ALGORITHMS] = Field(
        "lora",
        description="Form of the weight update: "
        + "; ".join(f"{name}, {row.summary}" for name, row in ALGORITHMS.items())
        + ".",
    )
    rank: Positive = Field(16, description="Rank of the update of each linear layer.")
    alpha: AmountAboveZero = Field(
        16.0, description="The update is scaled by alpha/rank (alpha/√rank with rslora)."
    )
    dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        0.0, description="Dropout on the input of the low-rank layers."
    )
    targets: Literal["attention", "attention+ff", "all"] | list[str] = Field(
        "attention",
        description="UNet layers that get an adapter: attention projections, those and the feed-forward "
        "layers, all linear layers of the transformer blocks, or a list of module-name endings.",
    )
    conv_rank: Positive | None = Field(
        None, description="Also adapt the UNet's convolutions with this rank (LoCon)."
    )
    conv_alpha: AmountAboveZero | None = Field(
        None, description="Alpha of the convolutions; their rank if unset."
    )
    block_rank: dict[str, Annotated[int, Field(ge=0)]] = Field(
        {},
        description="Ranks by module-name prefix, 0 for no adapter there, e.g. "
        "{mid_block: 32, up_blocks.1.attentions.0: 8, text_encoder: 4}. The longest match counts. "
        "Alpha scales with the rank, so alpha/rank stays the same (with rslora, alpha does).",
    )
    factor: Positive | None = Field(
        None,
        description="LoKr: side of the small factor, if it divides the layer's; near the square root if "
        "unset. A smaller one learns more and makes a larger file.",
    )
    text_encoder: bool = Field(False, description="Also adapt the text encoder(s).")
    rslora: bool = Field(False, description="Rank-stabilized scaling alpha/√rank (arXiv:2312.03732).")
    dora: bool = Field(False, description="Weight-decomposed LoRA (arXiv:2402.09353).")
    placeholder: str | None = Field(
        None,
        description="Also train a new word, such as `<mycat>`, with the LoRA (pivotal tuning); the captions "
        "must contain it.",
    )
    vectors: Vectors = 1
    initializer: Initializer = None

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        if self.targets == []:
            yield Fault(
                "The list of layers is empty.",
                "adapter.targets",
                "Use attention, attention+ff, all, or module-name endings.",
            )
        if self.placeholder is not None:
            yield from _word_faults(self.placeholder)


class EmbeddingSection(Section):
    """Only the token embeddings of a new word (textual inversion, Gal et al. 2022, arXiv:2208.01618)."""

    placeholder: str | None = Field(
        None, description="The new word, such as `<mycat>`; the folder's name in brackets if unset."
    )
    vectors: Vectors = 1
    initializer: Initializer = None

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        if self.placeholder is not None:
            yield from _word_faults(self.placeholder)


def _word_faults(word: str) -> Iterator[Fault]:
    where, most = "adapter.placeholder", LONGEST_NAME // 2
    if not re.fullmatch(r"[^\s.]*[^\W_][^\s.]*", word) or word != word.lower():
        yield Fault(
            f"{word!r} cannot be a new word: it must be one word in lower case, without dots.",
            where,
            "Use something like <mycat>; the brackets set it apart from real words.",
        )
    elif not word.isprintable():
        yield Fault(f"{word!r} contains an invisible character.", where, "Type it again.")
    elif len(word.encode()) > most:  # it becomes a file name, numbered if taken
        yield Fault("This word is too long.", where, f"Use at most {most} bytes, such as <mycat>.")


class AllWeightsSection(Section):
    """What is trained whole, not by updates."""

    weights: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="How trained weights are held. `bf16` halves their memory; it requires "
        "`training.precision=bf16` and an optimizer that rounds at random, adamw_bf16.",
    )

    def unfit(self, optimizer: OptimizerSection, training: TrainingSection) -> Iterator[Fault]:
        """Faults of weights in bf16 that optimizer and training loop do not allow."""
        if self.weights != "bf16":
            return
        able = [name for name, row in OPTIMIZERS.items() if row.rounds_bf16]
        if optimizer.name not in able:
            yield Fault(
                f"{optimizer.name} rounds bf16 weights to the nearest: most of its steps would be lost.",
                "adapter.weights",
                f"Set optimizer.name={', '.join(able)}, or adapter.weights=fp32.",
            )
        if training.precision not in ("auto", "bf16"):
            yield Fault(
                f"Weights in bf16 are computed with in bf16, but the precision is {training.precision}.",
                "adapter.weights",
                "Set training.precision=bf16, or adapter.weights=fp32.",
            )
        if training.ema:
            yield Fault(
                "The average of bf16 weights would be in bf16, too coarse for it to move.",
                "training.ema",
                "Set training.ema=false, or adapter.weights=fp32.",
            )


class FullSection(AllWeightsSection):
    """All weights of the UNet."""

    text_encoder: bool = Field(False, description="Also train the text encoder(s).")


class ControlNetSection(AllWeightsSection):
    """A branch beside the UNet that makes it follow a control picture (arXiv:2302.05543)."""

    start: Path | None = Field(
        None,
        description="ControlNet to start from (a run folder, a diffusers folder or one file); a new one made "
        "from the UNet if unset.",
    )
    rank: Positive | None = Field(
        None,
        description="Train updates of this rank instead of all weights of the branch (Control-LoRA): less "
        "memory, a small file.",
    )

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        if self.start is not None and self.rank is not None:
            yield Fault(
                "A Control-LoRA is made from the UNet's own weights and cannot start from a ControlNet.",
                "adapter.rank",
                "Remove adapter.rank or adapter.start.",
            )
        if self.rank is not None and self.weights == "bf16":
            yield Fault(
                "The weights of a Control-LoRA are few and always fp32.",
                "adapter.weights",
                "Leave it out, or remove adapter.rank.",
            )
