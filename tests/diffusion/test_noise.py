"""Each kind of noise against its formula, and that nothing but (seed, sample number) decides it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from finetune.config import ObjectiveSection
from finetune.diffusion.noise import draw_noise, offset_noise, perturbed, pyramid_noise
from finetune.diffusion.random import normal, uniform

SHAPE = (4, 16, 12)
NUMBERS = (3, 8, -2, 11)
KINDS = [
    ObjectiveSection(),
    ObjectiveSection(offset_noise=0.1),
    ObjectiveSection(pyramid_noise=0.8, pyramid_levels=4),
    ObjectiveSection(pyramid_noise=0.3, offset_noise=0.05),
]


@pytest.mark.parametrize("section", KINDS)
def test_a_samples_noise_does_not_depend_on_the_batch(section: ObjectiveSection) -> None:
    together = draw_noise(1, NUMBERS, SHAPE, section)
    apart = torch.cat([draw_noise(1, [n], SHAPE, section) for n in NUMBERS])
    assert torch.equal(together, apart)
    assert not torch.equal(together, draw_noise(2, NUMBERS, SHAPE, section))
    assert torch.equal(perturbed(together, 1, NUMBERS, 0.1)[2], perturbed(together[2:3], 1, [-2], 0.1)[0])


def test_plain_noise_is_what_it_always_was() -> None:
    assert torch.equal(draw_noise(5, NUMBERS, SHAPE, ObjectiveSection()), normal(5, NUMBERS, "noise", SHAPE))


def test_an_offset_is_one_value_a_channel_of_the_given_strength() -> None:
    numbers = range(500)
    shifts = offset_noise(torch.zeros(500, *SHAPE), 0, numbers, 0.1)
    assert torch.equal(shifts, shifts[:, :, :1, :1].expand_as(shifts))
    assert float(shifts[:, :, 0, 0].std()) == pytest.approx(0.1, rel=0.05)
    noise = draw_noise(0, numbers, SHAPE, ObjectiveSection(offset_noise=0.1))
    assert torch.equal(noise, normal(0, numbers, "noise", SHAPE) + shifts)


def test_pyramid_noise_is_the_reports_sum_of_levels() -> None:
    # Written out for one sample, with the ratios and levels of its own.
    white, expected = normal(0, [7], "noise", SHAPE), normal(0, [7], "noise", SHAPE)
    for level in range(3):
        ratio = 2 + 2 * uniform(0, [7], f"pyramid ratio {level}").item()
        side = [max(1, int(s / ratio**level)) for s in SHAPE[1:]]
        coarse = normal(0, [7], f"pyramid noise {level}", (4, *side))
        expected += 0.5**level * F.interpolate(coarse, SHAPE[1:], mode="bilinear")
    made = pyramid_noise(white, 0, [7], 0.5, levels=3)
    torch.testing.assert_close(made, expected / expected.pow(2).mean().sqrt())


def test_pyramid_noise_moves_power_to_low_frequencies_and_keeps_its_sum() -> None:
    numbers = range(200)
    white = normal(0, numbers, "noise", SHAPE)

    def coarse_power(noise: torch.Tensor) -> float:
        return float(F.avg_pool2d(noise, 4).square().mean())

    powers = [coarse_power(pyramid_noise(white, 0, numbers, discount)) for discount in (0.0, 0.3, 0.8)]
    assert powers[0] == pytest.approx(1 / 16, rel=0.1)  # a mean of 16 independent values
    assert powers[0] < powers[1] < powers[2]
    made = pyramid_noise(white, 0, numbers, 0.8)
    assert torch.allclose(made.square().mean((1, 2, 3)), torch.ones(200))


def test_more_levels_than_fit_change_nothing() -> None:
    white = normal(0, NUMBERS, "noise", SHAPE)
    assert torch.equal(pyramid_noise(white, 0, NUMBERS, 0.8, 20), pyramid_noise(white, 0, NUMBERS, 0.8, 30))
    assert not torch.equal(pyramid_noise(white, 0, NUMBERS, 0.8, 1), pyramid_noise(white, 0, NUMBERS, 0.8, 2))


def test_the_settings_say_discount_and_levels() -> None:
    white = normal(2, NUMBERS, "noise", SHAPE)
    for settings in ((0.6, 1), (0.6, 3), (0.2, 3)):
        section = ObjectiveSection(pyramid_noise=settings[0], pyramid_levels=settings[1])
        assert torch.equal(
            draw_noise(2, NUMBERS, SHAPE, section), pyramid_noise(white, 2, NUMBERS, *settings)
        )


def test_the_second_level_is_two_to_four_times_smaller() -> None:
    # Noise of side s, scaled up, has rank s. The discount lets the second level drown the first.
    made = [pyramid_noise(torch.zeros(1, 1, 64, 64), 0, [n], 1e6, 2)[0, 0] for n in range(60)]
    ranks = [int(torch.linalg.matrix_rank(noise, rtol=3e-5)) for noise in made]
    assert 16 <= min(ranks) <= 18  # s = ⌊64 / r⌋ for r in [2, 4)
    assert 31 <= max(ranks) <= 32


def test_perturbed_noise_has_the_papers_power() -> None:
    noise = normal(0, range(300), "noise", SHAPE)
    seen = perturbed(noise, 0, range(300), 0.1)
    assert float((seen - noise).std()) == pytest.approx(0.1, rel=0.02)
    assert float(((seen - noise) * noise).mean()) == pytest.approx(0, abs=1e-3)
    assert perturbed(noise, 0, range(300), 0.0) is noise
