"""A pytest plugin for mutmut's runs: which tests a mutant meets, and in which order."""

from __future__ import annotations

import json
import os
import resource
import time
from collections import Counter
from pathlib import Path

import pytest

SECONDS = 10.0  # of tests, besides those of the mutant's own file: others have other duties


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The mutant's mirrored test file, then files that take less time; quick tests first within each.

    mutmut also runs all tests without a mutant before it begins. A few of them do: `make test` runs all.
    """
    mutant = os.environ.get("MUTANT_UNDER_TEST", "stats")  # or the name of a step of mutmut's; "" is that run
    record = Path("mutmut-stats.json")
    if not record.exists() or (mutant and "__mutmut_" not in mutant):
        return
    seconds: dict[str, float] = json.loads(record.read_text(encoding="utf-8"))["duration_by_test"]
    mirror = "tests/{1}/test_{2}.py".format(*mutant.split(".")) if mutant else ""
    whole: Counter[str] = Counter()
    for item in items:
        whole[item.location[0]] += seconds.get(item.nodeid, 0.0)  # type: ignore[assignment]

    def order(item: pytest.Item) -> tuple[bool, float, str, float]:
        file = item.location[0]
        return file != mirror, whole[file], file, seconds.get(item.nodeid, 0.0)

    left, kept = SECONDS, []
    for item in sorted(items, key=order):
        if item.location[0] != mirror:
            left -= seconds.get(item.nodeid, 0.0)
        if left > 0 or not kept:
            kept.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
    if mutant:
        # mutmut's own limit goes by all tests. Who is killed by this signal counts as timed out.
        spent, planned = time.process_time(), sum(seconds.get(item.nodeid, 0.0) for item in kept)
        limit = int(spent + 3 * planned) + 20
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
