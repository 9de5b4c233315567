"""The algorithms of adapters: each has one row here and one module, `finetune/adapters/algorithms/`."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.config.choices import Choices, Row


@dataclass(frozen=True, kw_only=True)
class Algorithm(Row):
    """One algorithm.

    Attributes:
        cls: Where its subclass of `finetune.adapters.updates.Update` is, "module:name".
        summary: The form of its update, in a few words.
    """

    cls: str
    summary: str


_PACKAGE = "finetune.adapters.algorithms"
ALGORITHMS = Choices(
    "adapter.algorithm",
    {
        "lora": Algorithm(
            cls=f"{_PACKAGE}.lora:LowRankUpdate",
            summary="a product of two narrow matrices",
            # PEFT's LoHa and LoKr have dropout too, but it draws from the global generator (P1).
            settings=("rslora", "dora", "dropout"),
        ),
        "loha": Algorithm(
            cls=f"{_PACKAGE}.loha:HadamardUpdate", summary="two such products multiplied elementwise"
        ),
        "lokr": Algorithm(
            cls=f"{_PACKAGE}.lokr:KroneckerUpdate", summary="a Kronecker product", settings=("factor",)
        ),
    },
)
