"""Whether a checkpoint belongs to the run that is to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.errors import ConfigError
from finetune.training.resume import check_identity

BEFORE = {"optimizer.lr": 0.1, "training.seed": 1, "data": "abc", "model": "def"}
AGAIN, UNDO, UNDO_OTHERS = "Use the old settings.", "Undo the change.", "Undo the other changes."


@pytest.mark.parametrize(
    ("changes", "named", "fixes"),
    [
        ({"optimizer.lr": 0.2}, "optimizer.lr", [AGAIN]),
        ({"training.seed": 2, "optimizer.lr": None}, "optimizer.lr; training.seed", [AGAIN]),
        ({"data": "xyz"}, "the pictures", [UNDO]),
        ({"data": "xyz", "model": "uvw"}, "the pictures; model", [UNDO]),
        ({"data": "xyz", "optimizer.lr": 0.2}, "the pictures; optimizer.lr", [AGAIN, UNDO_OTHERS]),
        ({"data.flip": True}, "data.flip", [AGAIN]),
    ],
)
def test_what_has_changed_is_named_with_the_way_back(
    changes: dict[str, Any], named: str, fixes: list[str]
) -> None:
    now, words = {**BEFORE, **changes}, {"data": "the pictures", "other": "never said"}
    check_identity(BEFORE, dict(BEFORE), Path("run"), words, AGAIN)
    for one, other in ((BEFORE, now), (now, BEFORE)):
        with pytest.raises(ConfigError) as caught:
            check_identity(one, other, Path("run"), words, AGAIN)
        assert caught.value.what.endswith(f"changed: {named}.") and caught.value.where == "run"
        start_anew = "Without --resume a new run starts (in its own folder, if you name one)."
        assert caught.value.fix == " ".join([*fixes, start_anew])
