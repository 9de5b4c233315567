"""The measures, against formulas, hooks and planted answers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from finetune.backbones import Backbone
from finetune.diffusion.batch import Conditioning
from finetune.evaluation.drift import SHARES, compare, frechet
from finetune.evaluation.judge import Judge
from finetune.evaluation.prompt import classify
from finetune.evaluation.subject import COPY, Likeness, nearest, summed_up
from tests.families import FAMILIES, Family

LATENTS = (4, 8, 8)


def some(count: int, seed: int, *shape: int) -> Tensor:
    return torch.randn(count, *(shape or LATENTS), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_hidden_states_that_follow_the_second_up_block(
    family: Family, loaded: dict[str, Backbone]
) -> None:
    backbone = loaded[family]
    judge = Judge(backbone, seed=3)
    latents = some(3, 0)
    found = judge.features(latents)

    schedule = DDPMScheduler.from_config(backbone.scheduler.config)
    timesteps = torch.full((3,), 261)
    noise = judge.noise(261, 1, LATENTS).expand(3, -1, -1, -1)
    entering: list[Tensor] = []
    following = (*backbone.unet.up_blocks, None)[2]
    assert following is not None
    handle = following.register_forward_pre_hook(
        lambda module, given, named: entering.append(named["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        backbone.predict(
            schedule.add_noise(latents, noise, timesteps), timesteps, backbone.conditioning([""] * 3)
        )
    handle.remove()
    torch.testing.assert_close(found, entering[0].float())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_is_judged_alone(family: Family, loaded: dict[str, Backbone]) -> None:
    judge, latents = Judge(loaded[family]), some(3, 1)
    whole = judge.errors(latents, ["a cat", "a dog", "a cat"], [100, 700], 2)
    assert whole.shape == (3, 2, 2)
    one_by_one = replace(judge, at_once=1).errors(latents[1:2], ["a dog"], [100, 700], 2)
    torch.testing.assert_close(whole[1:2], one_by_one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole, judge.errors(latents, ["a cat", "a dog", "a cat"], [100, 700], 2))
    other = Judge(loaded[family], seed=1).errors(latents, ["a cat", "a dog", "a cat"], [100, 700], 2)
    assert not torch.allclose(whole, other)


class Known:
    """A model whose data is known: with a prompt, each latent is a Gaussian around the prompt's mean.

    Then the best prediction of the noise is a formula: of x_t = √ᾱ x + √(1-ᾱ) ε with x ~ N(m, s²), it is
    √(1-ᾱ) (x_t - √ᾱ m) / (ᾱ s² + 1 - ᾱ).
    """

    def __init__(self, means: dict[str, float], deviation: float, backbone: Backbone) -> None:
        self.means, self.variance = means, deviation**2
        self.scheduler = backbone.scheduler
        self.shares = DDPMScheduler.from_config(backbone.scheduler.config).alphas_cumprod
        self.device = torch.device("cpu")

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        return Conditioning(tokens=torch.tensor([[[self.means[caption]]] for caption in captions]))

    def encode_text(self, tokens: Tensor) -> tuple[Tensor, None]:
        return tokens, None

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.hidden is not None
        share = self.shares[timesteps].view(-1, 1, 1, 1)
        mean = conditioning.hidden.view(-1, 1, 1, 1)
        spread = share * self.variance + 1 - share
        return (1 - share).sqrt() * (noisy - share.sqrt() * mean) / spread


def test_prompts_are_told_apart_as_bayes_rule_tells_them_apart(loaded: dict[str, Backbone]) -> None:
    means = {"low": -0.3, "middle": 0.0, "high": 0.3}
    judge = Judge(Known(means, 1.0, loaded["sd1"]))  # type: ignore[arg-type]
    latents = some(60, 2) + torch.linspace(-0.6, 0.6, 60).view(-1, 1, 1, 1)
    found = classify(judge, latents, list(means))
    # log p(x | m) = -‖x - m‖² / 2 + constant
    likeliest = torch.stack([-(latents - m).square().sum((1, 2, 3)) for m in means.values()]).argmax(0)
    assert len(set(likeliest.tolist())) == 3
    assert (found == likeliest).float().mean() > 0.8
    sure = latents.mean((1, 2, 3)).abs() > 0.4
    assert (found == likeliest)[sure].all()


def test_the_change_is_by_how_much_the_loss_of_the_best_prediction_grows(loaded: dict[str, Backbone]) -> None:
    best = Judge(Known({"x": 0.0}, 0.5, loaded["sd1"]), at_once=512)  # type: ignore[arg-type]
    other = Judge(Known({"x": 0.4}, 0.5, loaded["sd1"]), at_once=512)  # type: ignore[arg-type]
    latents = 0.5 * some(4000, 4)
    same = compare(best, best, latents[:8], ["x"] * 8)
    assert same.changed == 0 and same.base == same.trained and len(same.base) == len(SHARES)
    found = compare(best, other, latents, ["x"] * len(latents))
    grown = sum(found.trained) / sum(found.base) - 1
    assert found.changed == pytest.approx(grown, rel=0.1) and found.gain == pytest.approx(-grown)


def test_the_distance_of_gaussians_is_that_of_their_formula() -> None:
    # Positions of one picture hold one value each, so that their mean is exact and their deviation 0.
    one, two = some(5000, 5, 3, 1, 1), 2 * some(5000, 6, 3, 1, 1) + 1
    wide = [each.expand(-1, -1, 2, 2) for each in (one, two)]
    # ‖μ₁ - μ₂‖² + ‖σ₁ - σ₂‖² = 1 + 1 for each of three features of six
    assert frechet(wide[0], wide[1], torch.ones(6)) == pytest.approx(1.0, abs=0.1)
    assert frechet(wide[0], wide[0], torch.ones(6)) == 0
    assert summed_up(wide[0]).shape == (5000, 6)


def test_likeness_is_0_for_the_class_and_1_for_the_training_pictures() -> None:
    of_class, subject = some(200, 7, 8, 4, 4), some(24, 8, 8, 4, 4)
    subject[:, :3] += 1.5
    likeness = Likeness.between(of_class, subject[:4])
    assert likeness(subject[4:]).mean() == pytest.approx(1, abs=0.1)
    assert likeness(some(200, 9, 8, 4, 4)).mean() == pytest.approx(0, abs=0.1)
    only = Likeness.between(of_class, subject[:1])
    assert only.scale == 1 and float(only(subject[:1])[0]) == pytest.approx(1)


def test_planted_copies_are_found() -> None:
    training, class_pictures, pictures = some(5, 10), some(20, 11), some(8, 12)
    mirrored = training.flip(3)
    pictures[2] = training[3] + 0.1 * some(1, 13)[0]
    pictures[5] = mirrored[1]
    found = nearest(pictures, training, mirrored, class_pictures)
    assert found.copies.nonzero().flatten().tolist() == [2, 5]
    assert found.index[2] == 3 and found.index[5] == 1
    # Independent noise is as far from training pictures as from others.
    rest = [0, 1, 3, 4, 6, 7]
    assert found.ratio[rest].min() > 0.9 > COPY


def test_judging_leaves_a_model_as_it_was(loaded: dict[str, Backbone]) -> None:
    backbone = copy.deepcopy(loaded["sd1"])
    judge = Judge(backbone)
    before, state = backbone.fingerprint(), torch.random.get_rng_state()
    judge.features(some(1, 14))
    judge.errors(some(1, 14), ["a cat"], [5], 1)
    assert backbone.fingerprint() == before and torch.random.get_rng_state().equal(state)
    assert not backbone.unet.up_blocks[1]._forward_hooks
