"""Tests of the oracle: how often it is right, what it takes, how it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file

from finetune.errors import WeightsError
from storybook.drawing import draw
from storybook.oracle import HEADS, Oracle, Reading, agrees
from storybook.oracle_checks import CHECK_STREAM, check, check_specs, score
from storybook.oracle_training import (
    TRAINING_STREAM,
    any_spec,
    draw_pictures,
    main,
    train_oracle,
)
from storybook.oracle_wear import wear
from storybook.textures import draw_texture
from storybook.world import (
    SCENES,
    SUBJECT,
    Spec,
    is_held_out,
    is_subject,
    near_miss,
    sample_spec,
)

Edit = Callable[[Image.Image], Image.Image]


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.load()


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng([77, *seed])  # No stream of training or checks begins with 77.


def _share(oracle: Oracle, specs: list[Spec], size: int = 64, edit: Edit | None = None) -> dict[str, float]:
    pictures = [draw(spec, _rng(size, i), size) for i, spec in enumerate(specs)]
    return score(oracle.read([edit(p) if edit else p for p in pictures]), specs)


def _specs(count: int) -> list[Spec]:
    return [sample_spec(_rng(i), held_out=i % 2 == 0) for i in range(count)]


def test_it_reads_fresh_pictures_right(oracle: Oracle) -> None:
    figures = _share(oracle, _specs(300))
    for name in ("animal", "colour", "hat", "scene"):
        assert figures[name] >= 0.98, (name, figures)


def test_it_knows_the_subject_from_near_misses(oracle: Oracle) -> None:
    rng = _rng(1)
    subjects = [
        replace(SUBJECT, scene=SCENES[i % 6], hat=(None, "red", "green")[i % 3], bell=i % 4 > 0)
        for i in range(150)
    ]
    others = [near_miss(rng) for _ in range(150)]
    figures = _share(oracle, subjects + others)
    assert figures["recall"] >= 0.98
    assert figures["precision"] >= 0.98
    plain = [draw(spec, _rng(2, i)) for i, spec in enumerate(_specs(200))]
    textures = [draw_texture(_rng(3, i)) for i in range(100)]
    assert np.mean([reading.is_subject for reading in oracle.read(plain)]) <= 0.005
    assert np.mean([reading.is_subject for reading in oracle.read(textures)]) <= 0.02


@pytest.mark.parametrize(
    "edit",
    [
        lambda picture: picture.filter(ImageFilter.GaussianBlur(0.8)),
        lambda picture: picture.resize((44, 44), Image.Resampling.BILINEAR),
        lambda picture: picture.convert("RGBA"),
    ],
    ids=["blurred", "smaller", "another mode"],
)
def test_it_reads_worn_pictures(oracle: Oracle, edit: Edit) -> None:
    figures = _share(oracle, _specs(120), edit=edit)
    assert min(figures[name] for name in ("animal", "colour", "hat", "scene")) >= 0.96, figures


@pytest.mark.parametrize("size", [96, 256])
def test_it_reads_other_sizes(oracle: Oracle, size: int) -> None:
    figures = _share(oracle, _specs(60), size)
    assert min(figures[name] for name in ("animal", "colour", "hat", "scene")) >= 0.96, figures


def test_a_reading_is_the_same_in_any_batch(oracle: Oracle) -> None:
    pictures = [draw(spec, _rng(4, i)) for i, spec in enumerate(_specs(130))]
    together = oracle.read(pictures)
    assert len(together) == 130
    alone = oracle.read(pictures[128:129])[0]
    assert (alone.animal, alone.hat) == (together[128].animal, together[128].hat)
    assert alone.subject == pytest.approx(together[128].subject, abs=1e-4)
    assert alone.confidences == pytest.approx(together[128].confidences, abs=1e-4)
    assert oracle.read([]) == []


def test_loading_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    Oracle.load()
    assert torch.equal(before, torch.random.get_rng_state())


def test_agreement_is_told_part_by_part() -> None:
    spec = Spec("cat", "red", "snow", hat="blue")
    reading = Reading("cat", "red", None, "snow", 0.1, None, None, 0.0, {})
    assert agrees(reading, spec) == {
        "animal": True,
        "colour": True,
        "hat": False,
        "scene": True,
        "all": False,
    }
    assert agrees(replace(reading, hat="blue"), spec)["all"]


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        Oracle.load(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(WeightsError):
        Oracle.load(tmp_path / "text.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError):
        Oracle.load(tmp_path / "other.safetensors")


def test_checks_share_no_picture_with_training() -> None:
    assert TRAINING_STREAM != CHECK_STREAM
    trained = {pixels.numpy().tobytes() for pixels in draw_pictures(150, 0).pixels}
    checked = {np.asarray(draw(spec, rng)).transpose(2, 0, 1).tobytes() for spec, rng in check_specs(150)}
    assert not trained & checked


def test_training_specs_have_everything() -> None:
    rng = _rng(5)
    specs = [any_spec(rng) for _ in range(3_000)]
    assert 0.10 < np.mean([is_subject(spec) for spec in specs]) < 0.15
    assert any(is_held_out(spec.animal, spec.colour, spec.scene) for spec in specs)
    assert any(spec.hat == spec.colour for spec in specs)


def test_wear_keeps_shape_range_and_hue_and_is_seeded() -> None:
    pictures = draw_pictures(64, 1).pixels.float() / 255
    worn = wear(pictures, torch.Generator().manual_seed(1))
    assert worn.shape == pictures.shape
    assert worn.min() >= 0 and worn.max() <= 1
    assert torch.equal(worn, wear(pictures, torch.Generator().manual_seed(1)))
    assert not torch.equal(worn, wear(pictures, torch.Generator().manual_seed(2)))
    tint = (worn - pictures).mean(dim=(0, 2, 3))
    assert tint.max() - tint.min() < 0.02


def test_training_learns_and_repeats(tmp_path: Path) -> None:
    losses: list[float] = []
    before = torch.random.get_rng_state()
    for name in ("first", "second"):
        train_oracle(tmp_path / name, 3, 8, lambda step, steps, loss: losses.append(loss), 120)
    assert torch.equal(before, torch.random.get_rng_state())
    assert losses[:8] == losses[8:]
    assert losses[7] < 0.9 * losses[0]
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    figures = check(Oracle.load(tmp_path / "first"), 30)
    assert set(HEADS) - {"subject"} <= set(figures)


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--check", "--count", "60"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["animal", "colour", "hat", "scene", "all"]
    assert [line.split()[0] for line in lines[1:]] == ["drawn", "degraded"]


def test_the_bundled_file_is_small(tmp_path: Path) -> None:
    import storybook

    bundled = Path(str(storybook.__file__)).parent / "models" / "oracle.safetensors"
    assert bundled.stat().st_size <= 2**20
    assert load_file(bundled)["look.weight"].dtype == torch.float16
