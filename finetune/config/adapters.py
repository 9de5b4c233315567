"""What is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from finetune.config.algorithms import ALGORITHMS
from finetune.config.base import LONGEST_NAME, AmountAboveZero, Fault, Positive, Section

Vectors = Annotated[
    int, Field(ge=1, le=75, description="How many tokens the placeholder stands for (textual inversion).")
]
Initializer = Annotated[
    str | None,
    Field(
        description="Words whose token embeddings the new ones start from, such as the subject's class: cat; "
        "drawn at random if unset."
    ),
]


class LoRASection(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) and their kin."""

    algorithm: Annotated[str, ALGORITHMS] = Field(
        "lora",
        description="How an update is written: "
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
        description="UNet layers that get an adapter: attention projections, also the feed-forward "
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
        description="Other ranks by the beginning of a module's name, 0 for no adapter there, e.g. "
        "{mid_block: 32, up_blocks.1.attentions.0: 8, text_encoder: 4}. The longest fitting one counts. "
        "Alpha goes with the rank, so that alpha/rank stays (with rslora it stays as it is).",
    )
    factor: Positive | None = Field(
        None,
        description="LoKr: side of the small factor, where it divides the layer's; near the square root if "
        "unset. The smaller, the more is learned and the larger the file.",
    )
    text_encoder: bool = Field(False, description="Also adapt the text encoder(s).")
    rslora: bool = Field(False, description="Rank-stabilised scaling alpha/√rank (arXiv:2312.03732).")
    dora: bool = Field(False, description="Weight-decomposed LoRA (arXiv:2402.09353).")
    placeholder: str | None = Field(
        None,
        description="Also train a new word, such as `<mycat>`, with the LoRA (pivotal tuning); the captions "
        "must say it.",
    )
    vectors: Vectors = 1
    initializer: Initializer = None

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        if self.conv_alpha is not None and self.conv_rank is None:
            yield Fault(
                "An alpha is given for convolutions, but they get no adapter: it has no effect.",
                "adapter.conv_alpha",
                "Set adapter.conv_rank too, or remove adapter.conv_alpha.",
            )
        if self.targets == []:
            yield Fault(
                "No layers are named: the list is empty.",
                "adapter.targets",
                "Use attention, attention+ff, all, or name endings.",
            )
        if self.placeholder is None:
            for key in ("vectors", "initializer"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    yield Fault(
                        "This is about a new word, but none is named.",
                        f"adapter.{key}",
                        "Name it with adapter.placeholder, such as <mycat>, or leave this out.",
                    )
        else:
            yield from _word_faults(self.placeholder)


class EmbeddingSection(Section):
    """A new word, its token embeddings alone (textual inversion, Gal et al. 2022, arXiv:2208.01618)."""

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
            "Use something like <mycat>; the brackets keep it apart from real words.",
        )
    elif not word.isprintable():
        yield Fault(f"{word!r} holds a character that is not seen.", where, "Type it anew.")
    elif len(word.encode()) > most:  # it names a file, with a suffix where that is taken
        yield Fault("This word is too long.", where, f"Take at most {most} bytes, such as <mycat>.")


class FullSection(Section):
    """All weights of the UNet."""

    text_encoder: bool = Field(False, description="Also train the text encoder(s).")


class ControlNetSection(Section):
    """A branch beside the UNet that makes it follow a control picture (arXiv:2302.05543)."""

    start: Path | None = Field(
        None,
        description="Folder of a ControlNet to go on with (a run folder, or a diffusers folder); a new one "
        "made from the UNet if unset.",
    )
    rank: Positive | None = Field(
        None,
        description="Train updates of this rank of the branch's layers instead of all its weights "
        "(Control-LoRA): less memory, a small file.",
    )

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        if self.start is not None and self.rank is not None:
            yield Fault(
                "A low-rank branch is one of the model's own weights and cannot go on with a ControlNet.",
                "adapter.rank",
                "Leave out this or adapter.start.",
            )
