"""Every sampler, on a model that is known in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler

from finetune.config.samplers import SAMPLERS
from finetune.errors import ConfigError
from finetune.sampling.schedulers import make_scheduler, set_timesteps

NAMES = list(SAMPLERS)
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def own(prediction: str, **more: Any) -> DDIMScheduler:
    return DDIMScheduler(**STABLE, prediction_type=prediction, timestep_spacing="leading", **more)


@pytest.mark.parametrize(
    ("name", "prediction"),
    [
        (name, prediction)
        for name in NAMES
        for prediction in ("epsilon", "v_prediction", "sample")
        if prediction != "sample" or name not in ("pndm", "euler-a")
    ],
)
def test_finds_the_only_picture_there_is(name: str, prediction: str) -> None:
    """If all data is one point x0, then ε and v are known for every x, and each sampler must end at x0.

    Some values of x0 lie outside [-1, 1]: a sampler that clips would miss them.
    """
    scheduler = make_scheduler(name, own(prediction))
    scheduler.set_timesteps(20)
    x0 = torch.tensor([-3.0, -0.5, 0.0, 0.7, 2.5]).view(1, 1, 5, 1).expand(2, 1, 5, 3)
    alphas = DDPMScheduler(**STABLE).alphas_cumprod
    x = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    takes_noise = name in ("ddpm", "euler-a", "lcm", "tcd") or name.endswith("sde")
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        a, b = alphas[int(t)].sqrt(), (1 - alphas[int(t)]).sqrt()
        eps = (seen - a * x0) / b
        said = {"epsilon": eps, "v_prediction": a * eps - b * x0, "sample": x0}[prediction]
        extra = {"generator": generators} if takes_noise else {}
        x = scheduler.step(said, t, x, **extra).prev_sample
    # All but the linear multistep method are exact here, whatever the step size.
    # TCD keeps the little noise of timestep 0, LCM some of what it was given, less with each timestep.
    near = {"pndm": 0.1, "tcd": 0.2, "lcm": 1e-4}
    assert (x - x0).abs().max() < near.get(name, 1e-5)


@pytest.mark.parametrize("model", [PNDMScheduler, DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("name", NAMES)
def test_schedule_is_the_models(name: str, model: Any) -> None:
    mine = model(**STABLE, prediction_type="v_prediction")
    before = dict(mine.config)
    made = make_scheduler(name, mine)
    assert torch.equal(made.betas, mine.betas)
    assert made.config.prediction_type == "v_prediction"
    assert dict(mine.config) == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps(name: str, steps: int) -> None:
    scheduler = make_scheduler(name, own("epsilon"))
    scheduler.set_timesteps(steps)
    x = torch.ones(1, 4, 8, 8) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    assert x.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sigmas", ["model", "karras"])
def test_as_many_steps_as_the_model_was_trained_with(name: str, sigmas: str) -> None:
    """They are taken or refused: with an offset, leading timesteps begin before the first."""
    if sigmas == "karras" and name in ("ddpm", "ddim", "pndm", "euler-a", "lcm", "tcd"):
        return
    scheduler = make_scheduler(name, own("epsilon"), sigmas)
    if sigmas == "model" and name != "dpm++-3m-sde":  # whose own levels are exponential
        with pytest.raises(ConfigError, match="cannot take 1000 steps"):
            set_timesteps(scheduler, 1000, None, torch.device("cpu"))
        return
    timesteps = set_timesteps(scheduler, 1000, None, torch.device("cpu"))
    x = torch.ones(1, 4, 2, 2) * scheduler.init_noise_sigma
    for t in timesteps:
        x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    assert x.isfinite().all()


def test_pndm_is_plms() -> None:
    """Without the Runge-Kutta warm-up: n steps take n + 1 evaluations."""
    scheduler = make_scheduler("pndm", EulerDiscreteScheduler(**STABLE))
    scheduler.set_timesteps(20)
    assert len(scheduler.timesteps) == 21


@pytest.mark.parametrize(
    ("typed", "meant"), [("eulr", "euler"), ("DPM++ 2M", "dpm++"), ("Euler_A", "euler-a")]
)
def test_unknown_name_tells_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean `{meant.replace('+', '.')}`"):
        make_scheduler(typed, own("epsilon"))


@pytest.mark.parametrize("name", NAMES)
def test_zero_terminal_snr_is_followed_or_refused(name: str) -> None:
    mine = own("v_prediction", rescale_betas_zero_snr=True)
    if name in ("pndm", "heun", "dpm++-sde"):
        with pytest.raises(ConfigError, match="zero terminal SNR"):
            make_scheduler(name, mine)
    else:
        assert torch.allclose(make_scheduler(name, mine).betas, mine.betas)


@pytest.mark.parametrize("name", ["pndm", "euler-a"])
def test_models_of_the_clean_picture_are_refused_where_they_cannot_be_sampled(name: str) -> None:
    with pytest.raises(ConfigError, match=r"predicts the clean picture[\s\S]*dpm\+\+"):
        make_scheduler(name, own("sample"))


def test_titles_are_those_of_a1111() -> None:
    assert SAMPLERS["euler-a"].title == "Euler a"
    assert {SAMPLERS[name].title for name in NAMES} >= {"DDIM", "PLMS", "Euler", "Heun", "DPM++ 2M"}


@pytest.mark.parametrize("name", ["euler", "dpm++", "unipc", "dpm++-2m-sde", "dpm++-sde"])
def test_sigmas_are_spaced_by_their_formulas(name: str) -> None:
    """Karras et al. 2022, equation 5 with ρ = 7; and a geometric series."""
    mine = own("epsilon")
    alphas = DDPMScheduler(**STABLE).alphas_cumprod
    noisy = ((1 - alphas) / alphas).sqrt()
    low, high = float(noisy[0]), float(noisy[-1])
    steps = torch.arange(8, dtype=torch.float64) / 7
    expected = {
        "karras": (high ** (1 / 7) + steps * (low ** (1 / 7) - high ** (1 / 7))) ** 7,
        "exponential": high * (low / high) ** steps,
    }
    for kind, sigmas in expected.items():
        # Euler's levels span those of its timesteps, which must reach both ends.
        spacing = "linspace" if name == "euler" else "model"
        scheduler = make_scheduler(name, mine, kind, spacing)
        scheduler.set_timesteps(8)
        made = scheduler.sigmas[:8].double()
        torch.testing.assert_close(made, sigmas, rtol=1e-3, atol=1e-4)


def test_one_spacing_of_sigmas_replaces_the_models() -> None:
    mine = EulerDiscreteScheduler(**STABLE, use_karras_sigmas=True)
    made = make_scheduler("dpm++", mine, sigmas="exponential").config
    assert (made.use_karras_sigmas, made.use_exponential_sigmas) == (False, True)
    assert make_scheduler("dpm++", mine).config.use_karras_sigmas


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dpm++-sde"])
def test_trailing_timesteps_begin_with_pure_noise(name: str) -> None:
    """Lin et al. 2023, table 2."""
    scheduler = make_scheduler(name, own("epsilon"), spacing="trailing")
    timesteps = set_timesteps(scheduler, 10, None, torch.device("cpu"))
    assert int(timesteps[0]) >= 979  # LCM and TCD step through the 50 timesteps of their distillation
    if name in ("ddpm", "ddim", "euler"):
        assert [int(t) for t in timesteps] == list(range(999, 0, -100))
    usual = make_scheduler(name, own("epsilon"))
    assert int(set_timesteps(usual, 10, None, torch.device("cpu"))[0]) <= int(timesteps[0])


def test_spacings_and_steps_that_a_sampler_cannot_have_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`ddim` cannot space[\s\S]*euler, dpm\+\+"):
        make_scheduler("ddim", own("epsilon"), sigmas="karras")
    with pytest.raises(ConfigError, match="`dpm\\+\\+-sde` cannot space its steps by `spacing` trailing"):
        make_scheduler("dpm++-sde", own("epsilon"), spacing="trailing")
    with pytest.raises(ConfigError, match="cannot take 60 steps"):
        set_timesteps(make_scheduler("lcm", own("epsilon")), 60, None, torch.device("cpu"))
