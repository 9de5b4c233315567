"""Variants of captions: what stays, what moves, and that the sample number alone decides."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.config.captions import CaptionsSection
from finetune.data.captions import variant

TAGS = "sks cat, red hat, snow, sitting, outdoors"
WORDS = st.lists(st.text("abc {}|", min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=6)


def variants(caption: str, count: int = 400, **options: Any) -> list[str]:
    section = CaptionsSection(**options)
    assert not list(section.faults())
    return [variant(caption, section, 0, number) for number in range(count)]


def tags(caption: str) -> list[str]:
    return caption.split(", ")


def test_without_options_a_caption_stays_as_it_is() -> None:
    assert set(variants("a  cat,on snow {red|blue}", 3)) == {"a  cat,on snow {red|blue}"}


def test_prefix_and_suffix_are_put_around() -> None:
    assert variants("on snow", 1, prefix="mycat, ", suffix=" a photo") == ["mycat, on snow a photo"]
    assert variants("", 1, prefix="mycat") == ["mycat"]


def test_shuffled_tags_are_all_there_and_come_in_every_order() -> None:
    found = variants("a, b, c", 600, shuffle=True)
    counts = Counter(found)
    assert set(counts) == {"a, b, c", "a, c, b", "b, a, c", "b, c, a", "c, a, b", "c, b, a"}
    assert min(counts.values()) > 70  # 100 each on average


def test_kept_tags_are_not_moved_and_not_dropped() -> None:
    for caption in variants(TAGS, keep_tags=2, shuffle=True, tag_dropout=0.5):
        assert tags(caption)[:2] == ["sks cat", "red hat"]


def test_a_separator_keeps_the_beginning_and_the_end() -> None:
    found = variants(
        "sks cat ||| red hat, snow, sitting ||| best quality", shuffle=True, keep_separator="|||"
    )
    assert {(tags(c)[0], tags(c)[-1]) for c in found} == {("sks cat", "best quality")}
    assert {tags(c)[1] for c in found} == {"red hat", "snow", "sitting"}
    assert variants("sks cat ||| snow", 1, keep_separator="|||") == ["sks cat, snow"]
    assert len(set(variants(TAGS, shuffle=True, keep_separator="|||"))) > 50  # without one, all are moved


def test_groups_stay_together() -> None:
    found = variants("a, red;;;hat, b", shuffle=True, tag_dropout=0.3, group_separator=";;;")
    for caption in found:
        parts = tags(caption)
        assert ("red" in parts) == ("hat" in parts)
        if "red" in parts:
            assert parts.index("hat") == parts.index("red") + 1


def test_tags_are_dropped_as_often_as_asked() -> None:
    counts = Counter(tag for caption in variants(TAGS, 2000, tag_dropout=0.25) for tag in tags(caption))
    for tag in tags(TAGS):
        assert counts[tag] / 2000 == pytest.approx(0.75, abs=0.04)


def test_wildcards_are_drawn_and_may_be_nested() -> None:
    found = Counter(variants("a {red|{light |dark }blue} cat", 800, wildcards=True))
    assert set(found) == {"a red cat", "a light blue cat", "a dark blue cat"}
    assert found["a red cat"] / 800 == pytest.approx(0.5, abs=0.07)
    assert variants("a } b { c", 1, wildcards=True) == ["a } b { c"]


TAG_LISTS = st.lists(st.text("abc xyz", min_size=1, max_size=4).map(str.strip).filter(bool), max_size=8)
NUMBERS = st.integers(0, 2**40)


@settings(max_examples=100, deadline=None)
@given(TAG_LISTS, st.integers(0, 4), NUMBERS, st.just(0.0) | st.floats(0, 0.99), st.booleans())
def test_kept_tags_come_first_and_the_others_are_all_there_or_dropped(
    given: list[str], keep: int, number: int, dropout: float, shuffle: bool
) -> None:
    section = CaptionsSection(shuffle=shuffle, tag_dropout=dropout, keep_tags=keep)
    found = [tag for tag in tags(variant(", ".join(given), section, 7, number)) if tag]
    assert found[:keep] == given[:keep]
    rest, others = found[keep:], given[keep:]
    assert Counter(rest) <= Counter(others)  # none is made up, changed or doubled
    if not dropout:
        assert Counter(rest) == Counter(others)
    if not shuffle:
        left = iter(others)
        assert all(tag in left for tag in rest)  # in their order


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.floats(0.05, 0.95), st.integers(0, 2), st.integers(0, 2**30), st.booleans())
def test_the_share_of_dropped_tags_is_that_of_independent_draws(
    share: float, keep: int, first: int, shuffle: bool
) -> None:
    section = CaptionsSection(tag_dropout=share, keep_tags=keep, shuffle=shuffle)
    given, samples = [f"tag{i}" for i in range(8)], 300
    found = [variant(", ".join(given), section, 1, first + number) for number in range(samples)]
    dropped = [len(given) - sum(map(bool, tags(caption))) for caption in found]
    draws = samples * (len(given) - keep)
    # Five standard deviations of the mean of so many draws.
    assert sum(dropped) / draws == pytest.approx(share, abs=5 * (share * (1 - share) / draws) ** 0.5)
    assert len(set(dropped)) > 2  # not all or none


TEXTS = st.text("abc ,", max_size=4)


def _either(inner: st.SearchStrategy[tuple[str, set[str]]]) -> st.SearchStrategy[tuple[str, set[str]]]:
    """A text, a group of choices and a text; with all that may come of it."""
    return st.tuples(TEXTS, st.lists(inner, min_size=1, max_size=3), TEXTS).map(
        lambda parts: (
            parts[0] + "{" + "|".join(text for text, _ in parts[1]) + "}" + parts[2],
            {parts[0] + one + parts[2] for _, ends in parts[1] for one in ends},
        )
    )


WILDCARDS = st.recursive(TEXTS.map(lambda text: (text, {text})), _either, max_leaves=8)


@settings(max_examples=150, deadline=None)
@given(WILDCARDS, NUMBERS)
def test_wildcards_give_nothing_but_their_choices(made: tuple[str, set[str]], number: int) -> None:
    text, possible = made
    found = variant(text, CaptionsSection(wildcards=True), 7, number)
    assert found in {" ".join(one.split()) for one in possible}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(WILDCARDS, st.integers(0, 2**30))
def test_every_choice_of_a_wildcard_comes(made: tuple[str, set[str]], first: int) -> None:
    text, possible = made
    section = CaptionsSection(wildcards=True)
    # The rarest of at most 8 leaves, 3 to a group, comes in one of 27 draws or more.
    found = {variant(text, section, 7, first + number) for number in range(400)}
    assert found == {" ".join(one.split()) for one in possible}


@settings(max_examples=60, deadline=None)
@given(WORDS, st.integers(0, 2**40), st.integers(0, 3))
def test_a_variant_depends_on_seed_and_number_alone(words: list[str], number: int, keep: int) -> None:
    section = CaptionsSection(shuffle=True, tag_dropout=0.4, wildcards=True, keep_tags=keep)
    caption = ", ".join(words)
    once = variant(caption, section, 7, number)
    assert variant(caption, section, 7, number) == once
    assert "  " not in once


@pytest.mark.parametrize(
    "options",
    [
        {"keep_tags": 1},
        {"group_separator": ";;;"},
        {"keep_separator": " , "},
        {"shuffle": True, "keep_tags": 1, "keep_separator": "|||"},
    ],
)
def test_what_would_have_no_effect_is_refused(options: dict[str, Any]) -> None:
    assert len(list(CaptionsSection(**options).faults())) == 1
