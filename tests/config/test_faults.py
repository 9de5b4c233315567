"""Settings of one section that would be ignored or cannot work together."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.config import (
    ControlNetSection,
    DataSection,
    EmbeddingSection,
    LoRASection,
    OutputSection,
    PairsSection,
    Section,
    SubjectSection,
)


@pytest.mark.parametrize(
    ("section", "settings", "where", "words"),
    [
        (LoRASection, {"conv_alpha": 2.0}, "adapter.conv_alpha", "no effect"),
        (LoRASection, {"targets": []}, "adapter.targets", "empty"),
        (
            LoRASection,
            {"algorithm": "loha", "dora": True},
            "adapter.dora",
            "no effect while adapter.algorithm",
        ),
        (LoRASection, {"algorithm": "lokr", "rslora": True}, "adapter.rslora", "rslora"),
        (LoRASection, {"algorithm": "loha", "dropout": 0.1}, "adapter.dropout", "dropout"),
        (LoRASection, {"factor": 4}, "adapter.factor", "no effect while adapter.algorithm"),
        (LoRASection, {"vectors": 2}, "adapter.vectors", "no effect"),
        (LoRASection, {"initializer": "cat"}, "adapter.initializer", "no effect"),
        (LoRASection, {"placeholder": "my cat"}, "adapter.placeholder", "one word"),
        (EmbeddingSection, {"placeholder": "my cat"}, "adapter.placeholder", "one word"),
        (EmbeddingSection, {"placeholder": "<MyCat>"}, "adapter.placeholder", "lower case"),
        (ControlNetSection, {"start": "x", "rank": 4}, "adapter.rank", "cannot start from"),
        (DataSection, {"variants": 4}, "data.variants", "neither crops nor colors"),
        (
            DataSection,
            {"variants": 4, "crop": "random", "cache": False},
            "data.variants",
            "without data.cache",
        ),
        (DataSection, {"cache": False, "cache_dir": "somewhere"}, "data.cache_dir", "caching is off"),
        (DataSection, {"cache_dir": __file__}, "data.cache_dir", "is a file"),
        (DataSection, {"mask": "alpha", "mask_dir": "masks"}, "data.mask", "twice"),
        (DataSection, {"unmasked_weight": 0.1}, "data.unmasked_weight", "without masks"),
        (SubjectSection, {"class_dir": "x"}, "data.class_dir", "--class-prompt"),
        (SubjectSection, {"prior_weight": 0.5}, "data.prior_weight", "--class-prompt"),
        (PairsSection, {"preprocess": "canny", "conditioning_dir": "x"}, "data.preprocess", "made from"),
        (PairsSection, {"canny_thresholds": (1, 2)}, "data.canny_thresholds", "no effect"),
        (OutputSection, {"name": "a/b"}, "output.name", "not a file name"),
    ],
)
def test_each_is_told_once(section: type[Section], settings: dict[str, Any], where: str, words: str) -> None:
    (fault,) = section(**settings).faults()
    assert fault.where == where and words in fault.what and fault.fix


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        (LoRASection, {"algorithm": "lokr", "factor": 4, "conv_rank": 2, "conv_alpha": 1.0}),
        (LoRASection, {"placeholder": "<mycat>", "vectors": 2, "initializer": "cat", "dora": True}),
        (DataSection, {"crop": "random", "cache": False, "mask": "alpha", "unmasked_weight": 0.1}),
        (SubjectSection, {"class_prompt": "a cat", "class_dir": "x", "prior_weight": 0.5}),
        (PairsSection, {"preprocess": "canny", "canny_thresholds": (1, 2)}),
    ],
)
def test_what_goes_together_is_not(section: type[Section], settings: dict[str, Any]) -> None:
    assert not list(section(**settings).faults())
