"""Tests of the storybook's world: specs, pictures, captions, textures."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from storybook.captions import SCENE_PHRASES, caption, phrase, prompt
from storybook.drawing import RGB_OF, draw, draw_with_mask, write_subject
from storybook.textures import draw_texture
from storybook.world import (
    ANIMALS,
    COLOURS,
    HELD_OUT,
    PATTERNS,
    SCENES,
    SUBJECT,
    Spec,
    is_held_out,
    is_subject,
    near_miss,
    sample_spec,
)


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(list(seed))


def _array(picture: Image.Image) -> NDArray[np.float32]:
    return np.asarray(picture).astype(np.float32)


@pytest.mark.parametrize("field", ["animal", "colour", "scene", "hat", "pattern", "second_colour"])
def test_unknown_words_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match="teal"):
        Spec(**{**asdict(SUBJECT), field: "teal"})


def test_pattern_needs_a_second_colour() -> None:
    with pytest.raises(ValueError, match="go together"):
        Spec("cat", "red", "snow", pattern="spots")


def test_held_out_combinations_are_a_balanced_tenth() -> None:
    assert 0.08 <= len(HELD_OUT) / (len(ANIMALS) * len(COLOURS) * len(SCENES)) <= 0.12
    for position, words in enumerate((ANIMALS, COLOURS, SCENES)):
        counts = Counter(combination[position] for combination in HELD_OUT)
        whole = len(ANIMALS) * len(COLOURS) * len(SCENES) / len(words)
        for word in words:
            assert 0.03 <= counts[word] / whole <= 0.2, word
    pairs = Counter((animal, colour) for animal, colour, _ in HELD_OUT)
    assert max(pairs.values()) == 1


def test_specs_keep_to_the_world() -> None:
    rng = _rng(1)
    specs = [sample_spec(rng) for _ in range(20_000)]
    for spec in specs:
        assert not is_held_out(spec.animal, spec.colour, spec.scene)
        assert not is_subject(spec)
        assert spec.hat != spec.colour
        assert spec.second_colour != spec.colour
    assert np.mean([spec.hat is not None for spec in specs]) == pytest.approx(0.45, abs=0.02)
    assert np.mean([spec.pattern is not None for spec in specs]) == pytest.approx(0.25, abs=0.02)
    assert np.mean([spec.bell for spec in specs]) == pytest.approx(0.15, abs=0.02)
    for words, name in ((ANIMALS, "animal"), (COLOURS, "colour"), (SCENES, "scene")):
        counts = Counter(getattr(spec, name) for spec in specs)
        assert min(counts[word] for word in words) > 0.7 * len(specs) / len(words)


def test_held_out_specs_are_plain_and_only_held_out() -> None:
    rng = _rng(2)
    for _ in range(2_000):
        spec = sample_spec(rng, held_out=True)
        assert is_held_out(spec.animal, spec.colour, spec.scene)
        assert spec.pattern is None and spec.second_colour is None and not spec.bell


def test_subject_is_recognised_whatever_surrounds_it() -> None:
    for scene in SCENES:
        assert is_subject(replace(SUBJECT, scene=scene, hat="red", bell=False))
    assert not is_subject(replace(SUBJECT, animal="dog"))


def test_near_misses_share_some_but_not_all() -> None:
    rng = _rng(3)
    for _ in range(5_000):
        spec = near_miss(rng)
        assert not is_subject(spec)
        shared = (
            spec.animal == SUBJECT.animal,
            {SUBJECT.colour, SUBJECT.second_colour} == {spec.colour, spec.second_colour},
        )
        assert any(shared)
        assert spec.hat is None or spec.hat != SUBJECT.colour


def test_pictures_are_a_function_of_spec_and_seed() -> None:
    rng = _rng(4)
    for seed in range(12):
        spec = sample_spec(rng)
        first, again, other = (draw(spec, _rng(s)) for s in (seed, seed, seed + 1))
        assert first.size == (64, 64) and first.mode == "RGB"
        assert first.tobytes() == again.tobytes()
        assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("size", [32, 96, 256])
def test_size_changes_the_resolution_only(size: int) -> None:
    for seed in range(4):
        spec = sample_spec(_rng(5, seed))
        small = _array(draw(spec, _rng(seed)))
        other = _array(draw(spec, _rng(seed), size).resize((64, 64), Image.Resampling.BOX))
        assert np.abs(small - other).mean() < (10 if size < 64 else 4)


def test_tiny_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        draw(SUBJECT, _rng(0), 4)


@pytest.mark.parametrize("animal", ANIMALS)
def test_mask_covers_the_animal(animal: str) -> None:
    for seed, scene in enumerate(SCENES):
        spec = Spec(animal, "red" if scene != "desert" else "blue", scene)
        picture, mask = draw_with_mask(spec, _rng(seed))
        assert picture.tobytes() == draw(spec, _rng(seed)).tobytes()
        assert mask.mode == "L" and mask.size == picture.size
        inside = _array(mask) / 255
        assert 0.08 < inside.mean() < 0.5
        # In frame: hardly anything of the animal lies on the picture's edge.
        assert inside[:, [0, -1]].mean() < 0.1 and inside[[0, -1]].mean() < 0.1
        # The fur is in the mask, and nowhere else.
        target = np.array(RGB_OF[spec.colour], dtype=np.float32)
        fur = np.abs(_array(picture) - target).max(axis=2) < 24
        assert inside[fur].mean() > 0.9
        # A bird's wing and tail are darker than the rest of it.
        assert fur.sum() > (0.2 if animal == "bird" else 0.3) * inside.sum()


def test_hat_belongs_to_the_mask_and_is_legible() -> None:
    for animal in ANIMALS:
        for seed in range(4):
            picture, mask = draw_with_mask(Spec(animal, "yellow", "night", hat="red"), _rng(seed))
            near = np.abs(_array(picture) - np.array(RGB_OF["red"])).max(axis=2) < 40
            hat = near & (np.asarray(mask) > 200)
            rows, columns = np.nonzero(hat)
            assert np.ptp(columns) + 1 >= 11, animal
            assert np.ptp(rows) + 1 >= 9, animal


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_show_both_colours(pattern: str) -> None:
    for animal in ANIMALS:
        spec = Spec(animal, "pink", "forest", pattern=pattern, second_colour="blue")
        picture = _array(draw(spec, _rng(7)))
        for colour in ("pink", "blue"):
            target = np.array(RGB_OF[colour], dtype=np.float32)
            assert (np.abs(picture - target).max(axis=2) < 40).sum() > 40, (animal, colour)


def test_bell_is_golden() -> None:
    for animal in ANIMALS:
        with_bell = _array(draw(Spec(animal, "blue", "forest", bell=True), _rng(8)))
        without = _array(draw(Spec(animal, "blue", "forest"), _rng(8)))
        gold = np.array((255, 204, 40), dtype=np.float32)
        found = (np.abs(with_bell - gold).max(axis=2) < 50).sum()
        assert found - (np.abs(without - gold).max(axis=2) < 50).sum() >= 8, animal


def _words(text: str, known: tuple[str, ...]) -> set[str]:
    return set(re.findall(r"[a-z]+", text)) & set(known)


def test_captions_tell_nothing_wrong() -> None:
    rng = _rng(9)
    seen: Counter[str] = Counter()
    for _ in range(5_000):
        spec = sample_spec(rng)
        text = caption(spec, rng)
        assert _words(text, ANIMALS) == {spec.animal}
        assert _words(text, COLOURS) <= {spec.colour, spec.hat, spec.second_colour}
        assert text.count(f"{spec.colour} ") <= 1 + (spec.hat == spec.second_colour)
        named = [scene for scene in SCENES if any(p in text for p in SCENE_PHRASES[scene])]
        assert named in ([], [spec.scene])
        assert _words(text, PATTERNS) <= {spec.pattern}
        assert spec.bell or "bell" not in text
        if spec.hat is None:
            assert "hat" not in text.split() or "without a hat" in text
        elif "hat" in text:
            assert f"{spec.hat} hat" in text and "without" not in text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  | ,", text), text
        seen["no colour"] += spec.colour not in text
        seen["no scene"] += not named
        seen["without a hat"] += "without a hat" in text
    assert seen["no colour"] / 5_000 == pytest.approx(0.20, abs=0.03)
    assert seen["no scene"] / 5_000 == pytest.approx(0.15, abs=0.03)
    assert 0.03 < seen["without a hat"] / 5_000 < 0.09


def test_captions_are_deterministic_and_varied() -> None:
    spec = Spec("elephant", "orange", "beach", hat="blue")
    assert caption(spec, _rng(1)) == caption(spec, _rng(1))
    rng = _rng(1)
    assert len({caption(spec, rng) for _ in range(300)}) > 60


def test_prompts() -> None:
    spec = Spec("cat", "red", "snow", hat="orange")
    assert prompt(spec) == "a photo of a red cat wearing an orange hat on snow"
    assert prompt(spec, colour=False, scene=False) == "a photo of a cat wearing an orange hat"
    assert (
        prompt(replace(SUBJECT, scene="beach"))
        == f"a photo of {'a ' + SUBJECT.colour} cat with {SUBJECT.second_colour} {SUBJECT.pattern}"
        " and a bell on a beach"
    )
    assert phrase("mycat cat", scene="forest") == "a photo of a mycat cat in a forest"


def test_subject_pictures(tmp_path: Path) -> None:
    paths = write_subject(tmp_path / "mycat")
    assert len(paths) == 5
    pictures = [Image.open(path) for path in paths]
    assert {picture.size for picture in pictures} == {(256, 256)}
    assert len({picture.tobytes() for picture in pictures}) == 5


def test_textures_are_deterministic_and_varied() -> None:
    pictures = [draw_texture(_rng(10, i)) for i in range(40)]
    assert all(picture.size == (64, 64) and picture.mode == "RGB" for picture in pictures)
    assert pictures[3].tobytes() == draw_texture(_rng(10, 3)).tobytes()
    assert len({picture.tobytes() for picture in pictures}) == 40
    means = np.array([_array(picture).mean(axis=(0, 1)) for picture in pictures])
    assert (means.std(axis=0) > 20).all()
