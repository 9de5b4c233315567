"""The algorithms of adapters: each has one row here and one module, `finetune/adapters/algorithms/`."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.config.choices import Choices, Row


@dataclass(frozen=True, kw_only=True)
class Algorithm(Row):
    """One algorithm.

    Attributes:
        cls: Where its subclass of `finetune.adapters.updates.Update` is, "module:name".
        summary: What it makes an update of, a few words.
    """

    cls: str
    summary: str


_PLACE = "finetune.adapters.algorithms"
ALGORITHMS = Choices(
    "adapter.algorithm",
    {
        "lora": Algorithm(
            cls=f"{_PLACE}.lora:LowRankUpdate",
            summary="a product of two narrow matrices",
            # PEFT's LoHa and LoKr have dropouts, but those draw from the global generator (P1).
            settings=("rslora", "dora", "dropout"),
        ),
        "loha": Algorithm(
            cls=f"{_PLACE}.loha:HadamardUpdate", summary="two such products multiplied by element"
        ),
        "lokr": Algorithm(
            cls=f"{_PLACE}.lokr:KroneckerUpdate", summary="a Kronecker product", settings=("factor",)
        ),
    },
)
