"""Shares of an epoch: exact to a sample in every epoch, fair over all of them, and drawn by number alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.config import SourceSection
from finetune.data.buckets import Order
from finetune.data.epoch import Pool, amounts, epoch_length, samples_by_folder, share_note
from finetune.data.folder import Picture

quick = settings(max_examples=60, deadline=None)
MAIN = Path("main")


def pictures(number: int, source: SourceSection | None = None, repeats: int = 1) -> list[Picture]:
    place = source.dir if source else MAIN
    names = [f"{place}/{n}.png" for n in range(number)]
    return [Picture(Path(n), n, ("x",), n, 8, 8, repeats=repeats, source=source) for n in names]


def shared(name: str, share: float) -> SourceSection:
    return SourceSection(dir=Path(name), share=share)


@quick
@given(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.integers(1, 30), st.integers(-20, 20))
def test_a_pool_shows_all_equally_often_from_any_epoch_on(
    repeats: list[int], samples: int, first: int
) -> None:
    items = tuple(10 + i for i, n in enumerate(repeats) for _ in range(n))
    pool, shown = Pool(items, samples, "x"), Counter[int]()
    for epoch in range(first, first + 12):
        epochs = pool.shown(7, epoch)
        assert len(epochs) == samples
        shown.update(epochs.tolist())
        # Never off by more than the rounds at both ends that are not complete.
        for i, own in enumerate(repeats):
            exact = (epoch - first + 1) * samples * own / len(items)
            assert abs(shown[10 + i] - exact) < 2 * own + 1e-9
    whole = [item for epoch in range(len(items)) for item in pool.shown(7, epoch).tolist()]
    assert Counter(whole) == {10 + i: samples * own for i, own in enumerate(repeats)}


def test_which_a_pool_shows_differs_from_epoch_to_epoch_seed_to_seed_and_pool_to_pool() -> None:
    draws = [
        tuple(pool.shown(seed, epoch).tolist())
        for pool in (Pool(tuple(range(50)), 50, "0"), Pool(tuple(range(50)), 50, "1"))
        for seed in (1, 2)
        for epoch in (0, 1, -1)
    ]
    assert len(set(draws)) == len(draws)
    assert all(sorted(draw) == list(range(50)) for draw in draws)


@quick
@given(
    st.integers(1, 40),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 0.3)), min_size=1, max_size=3),
)
def test_shares_are_met_to_half_a_sample_beside_a_main_folder(
    main: int, repeats: int, folders: list[tuple[int, float]]
) -> None:
    every = pictures(main, repeats=repeats)
    for number, (size, share) in enumerate(folders):
        every += pictures(size, shared(str(number), share))
    epoch = main * repeats / (1 - sum(share for _, share in folders))
    found = samples_by_folder(every, MAIN)
    assert found.pop(MAIN) == main * repeats
    for number, (_, share) in enumerate(folders):
        assert abs(found[Path(str(number))] - share * epoch) <= 0.5 or found[Path(str(number))] == 1
    assert epoch_length(every) == main * repeats + sum(found.values())


def test_shares_of_all_folders_fill_an_epoch_of_all_their_pictures() -> None:
    every = [*pictures(30, shared("a", 0.2)), *pictures(10, shared("b", 0.8))]
    assert samples_by_folder(every, MAIN) == {Path("a"): 8, Path("b"): 32}
    # The pictures of one folder may all be held out for validation.
    assert samples_by_folder(pictures(10, shared("b", 0.8)), MAIN) == {Path("b"): 10}


@pytest.mark.parametrize("group", [1, 4])
def test_the_order_shows_shares_in_every_epoch_and_all_pictures_in_time(group: int) -> None:
    every = [*pictures(6, repeats=2), *pictures(10, shared("b", 0.25))]
    repeats, pools = amounts(every)
    order = Order([(8, 8 + 8 * (n % 3)) for n in range(16)], repeats, group, 3, pools)
    assert len(order) == 16  # 12 of 6 pictures, so 4 of the other folder: a quarter
    items = [order.item(number) for number in range(5 * 16)]
    for epoch in range(5):
        shown = Counter(items[epoch * 16 : (epoch + 1) * 16])
        assert [shown[n] for n in range(6)] == [2] * 6
        assert sum(shown[n] for n in range(6, 16)) == 4
    assert [items.count(n) for n in range(6, 16)] == [2] * 10
    assert [order.item(number) for number in reversed(range(80))] == items[::-1]


def test_shares_are_told_in_samples_and_percent() -> None:
    every = [*pictures(5), *pictures(3, shared("b", 0.25))]
    assert share_note(every, MAIN) == ["an epoch has 7 samples: 5 of main (71%), 2 of b (29%)"]
    assert share_note(pictures(5), MAIN) == []
