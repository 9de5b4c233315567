"""What docs/diffusion.md says, on a distribution whose score is known: a mixture of two Gaussians.

Each value of the latents is drawn from the mixture by itself, so a few pictures are thousands of samples, and
the exact prediction of the noise is a formula.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor, nn

from finetune.backbones import Backbone
from finetune.config import ObjectiveSection
from finetune.config.samplers import SAMPLERS
from finetune.config.weightings import WEIGHTINGS
from finetune.diffusion.batch import Batch, Conditioning
from finetune.diffusion.objective import Objective
from finetune.diffusion.schedule import clean_latents
from finetune.sampling.denoise import Setup, Ticker, denoise
from finetune.sampling.guidance import Guided
from finetune.sampling.plan import Given, plan
from finetune.sampling.schedulers import make_scheduler, set_timesteps
from finetune.sampling.start import Kept
from finetune.sampling.texts import encode_texts
from finetune.sampling.third_order import ThirdOrderSDE
from tests.tiny import BETAS

SHARES, MEANS, STDS = (0.3, 0.7), (-1.0, 0.8), (0.2, 0.3)
PROMPT = "a cat"
MEAN = sum(w * m for w, m in zip(SHARES, MEANS, strict=True))
STD = (sum(w * (s**2 + m**2) for w, m, s in zip(SHARES, MEANS, STDS, strict=True)) - MEAN**2) ** 0.5
one_family = pytest.mark.parametrize("family", ["sd1"])


def log_density(noisy: Tensor, share: Tensor, shares: tuple[float, ...] = SHARES) -> Tensor:
    """Log p_t of x_t = √ᾱ x + √(1−ᾱ) ε, where x is drawn from the mixture: again a mixture."""
    parts = []
    for weight, mean, std in zip(shares, MEANS, STDS, strict=True):
        variance = share * std**2 + 1 - share
        part = -0.5 * (noisy - share.sqrt() * mean) ** 2 / variance - 0.5 * variance.log()
        parts.append(part + torch.tensor(weight).log())
    return torch.logsumexp(torch.stack(parts), dim=0)


def score(noisy: Tensor, share: Tensor, shares: tuple[float, ...] = SHARES) -> Tensor:
    """∇ log p_t by automatic differentiation."""
    with torch.enable_grad():
        x = noisy.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(log_density(x, share, shares).sum(), x)
    return gradient


class Exact(nn.Module):
    """In place of a UNet: predicts ε = −σ ∇ log p_t(x), of one Gaussian if told so, else of the mixture."""

    def __init__(self, unet: Any, alphas_bar: Tensor, told: Tensor) -> None:
        super().__init__()
        self.config, self.alphas_bar, self.told = unet.config, alphas_bar, told
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **_: Any
    ) -> tuple[Tensor]:
        low = timestep.floor().long().clamp(0, 999)
        share = torch.lerp(
            self.alphas_bar[low], self.alphas_bar[(low + 1).clamp(max=999)], timestep.float() - low
        )
        share = share.view(-1, 1, 1, 1)
        one, mixture = (score(sample, share, shares) for shares in ((0.0, 1.0), SHARES))
        told = (encoder_hidden_states - self.told).abs().amax((1, 2)) < 1e-6
        return (self.predicted(sample, share, torch.where(told[:, None, None, None], one, mixture)),)

    def predicted(self, noisy: Tensor, share: Tensor, score: Tensor) -> Tensor:
        """The noise."""
        return -(1 - share).sqrt() * score


class Velocity(Exact):
    """Predicts v = α ε − σ x, where x is the clean value: (x_t + σ² s) / α, the data's mean at α = 0."""

    def predicted(self, noisy: Tensor, share: Tensor, score: Tensor) -> Tensor:
        """The velocity."""
        alpha, sigma = share.sqrt(), (1 - share).sqrt()
        clean = torch.where(share > 1e-5, (noisy + sigma**2 * score) / alpha.clamp(min=1e-3), MEAN)
        return -alpha * sigma * score - sigma * clean


@pytest.fixture
def exact(backbone: Backbone) -> Backbone:
    told = backbone.encode_text(backbone.tokenize([PROMPT]))[0]
    alphas_bar = make_scheduler("ddim", backbone.scheduler).alphas_cumprod
    backbone.unet = Exact(backbone.unet, alphas_bar, told)
    return backbone


def sampled(
    backbone: Backbone, prompt: str = "", count: int = 16, begun: Tensor | None = None, **choices: Any
) -> Tensor:
    """Latents from the sampler's own loop."""
    how: Any = {"num": count, "size": 32, **choices}
    strength = how.pop("strength", None)  # without a picture it is refused; `begun` stands for one
    jobs, settings = plan(backbone, (), Given([prompt], 3), how)
    settings = settings.model_copy(update={"strength": strength})
    device = torch.device("cpu")
    texts = encode_texts(backbone, [prompt, ""], settings, device, torch.float32)
    setup = Setup(backbone, (), texts, settings, device, torch.float32)
    return denoise(setup, jobs, Ticker(None, 1), begun)


@one_family
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("lcm", "tcd")])
def test_every_sampler_draws_from_the_distribution(name: str, exact: Backbone) -> None:
    noisy = name in ("ddpm", "euler-a", "dpm++-sde", "dpm++-2m-sde", "dpm++-3m-sde")
    made = sampled(exact, scheduler=name, steps=200 if noisy else 50, guidance=1.0).flatten()
    assert len(made) == 4096  # standard errors: 0.013 of the mean, 0.01 of the deviation, 0.007 of the share
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.06)
    assert float(made.std()) == pytest.approx(STD, abs=0.04)
    left = made[made < -0.2]
    assert len(left) / len(made) == pytest.approx(SHARES[0], abs=0.04)
    assert float(left.mean()) == pytest.approx(MEANS[0], abs=0.05)
    assert float(left.std()) == pytest.approx(STDS[0], abs=0.05)


@one_family
def test_the_third_order_sampler_bears_the_models_own_levels(exact: Backbone) -> None:
    """Diffusers' step gave a deviation of 2.14 here."""
    own = dict(SAMPLERS["dpm++-3m-sde"].fixed)
    exact.scheduler = DPMSolverMultistepScheduler.from_config(exact.scheduler.config)
    scheduler = ThirdOrderSDE.from_config(exact.scheduler.config, **own)
    scheduler.set_timesteps(200)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, 32, 32, generator=generator)
    for timestep in scheduler.timesteps:
        predicted = exact.unet(latents, timestep[None], torch.zeros(1, 77, 1) + torch.inf)[0]
        latents = scheduler.step(predicted, timestep, latents, generator=generator).prev_sample
    assert float(latents.std()) == pytest.approx(STD, abs=0.04)


@one_family
def test_ddim_solves_the_probability_flow(exact: Backbone) -> None:
    """In y = x/√ᾱ and s = √(1−ᾱ)/√ᾱ the flow is dy/ds = ε; solved here by Runge and Kutta's fourth order."""
    made = sampled(exact, scheduler="ddim", steps=500, guidance=1.0, count=1)
    scheduler = make_scheduler("ddim", exact.scheduler)
    scheduler.set_timesteps(500)
    first, last = (scheduler.alphas_cumprod[t].double() for t in (scheduler.timesteps[0], 0))

    def slope(y: Tensor, s: Tensor) -> Tensor:
        share = 1 / (1 + s**2)
        return -(1 - share).sqrt() * score(y * share.sqrt(), share)

    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    y = noise / first.sqrt()
    ends = [(1 / share - 1).sqrt().log() for share in (first, last)]
    points = torch.linspace(float(ends[0]), float(ends[1]), 400, dtype=torch.float64).exp()
    for s, then in pairwise(points):
        h = then - s
        k1 = slope(y, s)
        k2 = slope(y + h / 2 * k1, s + h / 2)
        k3 = slope(y + h / 2 * k2, s + h / 2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3, then))
    assert float((made.double() - y * last.sqrt()).abs().mean()) < 0.01


@one_family
def test_guidance_sharpens_what_tells_the_prompt_apart(exact: Backbone) -> None:
    """Its score is w ∇log p(x|c) + (1−w) ∇log p(x): more of the modes of c, and less than their width."""
    share, noisy = torch.tensor(0.5), torch.linspace(-2, 2, 256).view(1, 4, 8, 8)
    rows = [Conditioning(hidden=exact.encode_text(exact.tokenize([text]))[0]) for text in (PROMPT, "")]
    timestep = (exact.unet.alphas_bar - share).abs().argmin()
    share = exact.unet.alphas_bar[timestep]
    guided = Guided(exact, *rows, 4.0)(noisy, timestep, (0.0, 1.0))
    expected = 4 * score(noisy, share, (0.0, 1.0)) - 3 * score(noisy, share)
    torch.testing.assert_close(guided, -(1 - share).sqrt() * expected, rtol=1e-4, atol=1e-4)
    told = [sampled(exact, PROMPT, scheduler="ddim", steps=50, guidance=w).flatten() for w in (1.0, 4.0)]
    assert float(told[0].mean()) == pytest.approx(MEANS[1], abs=0.05)
    assert float(told[0].std()) == pytest.approx(STDS[1], abs=0.03)
    assert told[1].std() < 0.9 * told[0].std() and told[1].mean() > told[0].mean()


@one_family
def test_img2img_draws_again_what_the_noise_hides(exact: Backbone) -> None:
    """From x with noise on it a stochastic sampler draws from p(x | x_t), which knows the mode in part."""
    begun, settings = torch.full((1, 4, 32, 32), MEANS[0]), {"steps": 500, "strength": 0.5, "size": 128}
    made = sampled(exact, scheduler="ddpm", guidance=1.0, count=1, begun=begun, **settings).flatten()
    first = set_timesteps(make_scheduler("ddpm", exact.scheduler), 500, 0.5, torch.device("cpu"))[0]
    share = make_scheduler("ddpm", exact.scheduler).alphas_cumprod[first].double()
    # The share of the left mode, as the mean over the noise of what x_t says of it.
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(5)).double()
    noisy = share.sqrt() * MEANS[0] + (1 - share).sqrt() * noise
    parts = []
    for weight, mean, std in zip(SHARES, MEANS, STDS, strict=True):
        variance = share * std**2 + 1 - share
        parts.append(
            weight * (-((noisy - share.sqrt() * mean) ** 2) / (2 * variance)).exp() / variance.sqrt()
        )
    expected = float((parts[0] / sum(parts)).mean())
    assert SHARES[0] + 0.1 < expected < 0.9  # neither forgotten nor kept
    assert float((made < -0.2).double().mean()) == pytest.approx(expected, abs=0.04)


def test_keeping_a_part_by_putting_it_back_is_not_the_conditional() -> None:
    """Two normal values with correlation 0.9, one of them known: the other should have a mean of 0.9 of it.

    With the exact joint score it comes to about half of that along the flow, and to two thirds with fresh
    noise, however many steps there are.
    """
    correlation, count = 0.9, 20_000
    covariance = torch.tensor([[1, correlation], [correlation, 1]])

    def slope(kind: type[Any], steps: int) -> float:
        scheduler, drawn = kind(**BETAS, clip_sample=False), torch.Generator().manual_seed(0)
        scheduler.set_timesteps(steps)
        known = torch.randn(count, generator=drawn)
        pictures, mask = torch.zeros(1, 1, 2, count), torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
        pictures[0, 0, 0] = known
        noise = torch.randn(1, 1, 2, count, generator=drawn)
        kept, x = Kept(pictures, noise, mask), noise
        extra = {"generator": drawn} if kind is DDPMScheduler else {}
        for index, t in enumerate(scheduler.timesteps):
            share = scheduler.alphas_cumprod[t]
            inverse = torch.linalg.inv(share * covariance + (1 - share) * torch.eye(2))
            predicted = (1 - share).sqrt() * (inverse @ x[0, 0])[None, None]
            x = scheduler.step(predicted, t, x, **extra).prev_sample
            x = kept.put_back(x, scheduler, scheduler.timesteps[index + 1 : index + 2])
        assert torch.equal(x[0, 0, 0], known)  # what is kept is kept
        return float((known * x[0, 0, 1]).mean() / known.square().mean())

    assert slope(DDIMScheduler, 20) == pytest.approx(0.45, abs=0.03)
    assert slope(DDIMScheduler, 200) == pytest.approx(0.45, abs=0.03)
    assert slope(DDPMScheduler, 200) == pytest.approx(0.63, abs=0.03)


@one_family
@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++"])
def test_with_zero_terminal_snr_velocity_draws_from_the_distribution(name: str, backbone: Backbone) -> None:
    """At the last timestep x_t is pure noise and v = −x, so the first step takes the mean of the data."""
    config = {**BETAS, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    scheduler = DDIMScheduler(**config, rescale_betas_zero_snr=True)
    backbone.scheduler = scheduler
    told = backbone.encode_text(backbone.tokenize([PROMPT]))[0]
    backbone.unet = Velocity(backbone.unet, scheduler.alphas_cumprod, told)
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-6)
    made = sampled(backbone, scheduler=name, steps=50, guidance=1.0).flatten()
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.06)
    assert float(made.std()) == pytest.approx(STD, abs=0.05)


@pytest.mark.parametrize(
    ("kind", "weighting"),
    [(kind, "none") for kind in ("epsilon", "v_prediction", "sample")]
    + [("epsilon", name) for name in WEIGHTINGS if name != "none"],
)
def test_the_loss_is_least_at_the_score(kind: str, weighting: str) -> None:
    """Where a·prediction + b has zero gradient at a = 1, b = 0; at any other it has not."""
    section = ObjectiveSection(weighting=weighting)
    objective, numbers = Objective(_scheduler(kind), 0, section), tuple(range(4000))
    scheduler = objective.schedule
    drawn = torch.Generator().manual_seed(1)
    which = torch.rand(4000, 4, 1, 1, generator=drawn) < SHARES[0]
    normal = torch.randn(4000, 4, 1, 1, generator=drawn)
    data = torch.where(which, MEANS[0] + STDS[0] * normal, MEANS[1] + STDS[1] * normal)
    batch = Batch(numbers, data, Conditioning(), torch.ones(4000), ("",) * 4000)
    scale, shift = (
        torch.ones(4000, 1, 1, 1, requires_grad=True),
        torch.zeros(4000, 1, 1, 1, requires_grad=True),
    )

    def predict(noisy: Tensor, timesteps: Tensor, _: Conditioning) -> Tensor:
        share = scheduler.alphas_cumprod[timesteps][:, None, None, None]
        noise = -(1 - share).sqrt() * score(noisy, share)
        clean = (noisy - (1 - share).sqrt() * noise) / share.sqrt()
        made = {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": share.sqrt() * noise - (1 - share).sqrt() * clean,
        }
        torch.testing.assert_close(clean_latents(made[kind], noisy, share, kind), clean, rtol=1e-3, atol=1e-3)
        return scale * made[kind] + shift

    objective(predict, batch).sum().backward()
    for parameter in (scale, shift):
        assert parameter.grad is not None
        each = parameter.grad.flatten()
        error = each.std() / len(each) ** 0.5
        assert abs(float(each.mean())) < 4 * float(error)
    with torch.no_grad():
        least = objective(predict, batch).mean()
        scale.fill_(1.1)
        assert objective(predict, batch).mean() > least


def _scheduler(kind: str) -> Any:
    return DDIMScheduler(**BETAS, prediction_type=kind)
