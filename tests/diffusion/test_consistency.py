"""Latent consistency distillation against diffusers' DDIM and LCM schedulers, and closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import Tensor

from finetune.config.objective import ConsistencySection
from finetune.diffusion.batch import Batch, Conditioning
from finetune.diffusion.consistency import ConsistencyObjective
from finetune.diffusion.random import normal
from tests.diffusion.test_objective import BETAS, alpha_bar

TYPES = ["epsilon", "v_prediction", "sample"]
EMPTY = Conditioning(hidden=torch.zeros(1, 2, 3))
NUMBERS = tuple(range(8))


def teacher(noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
    """Some function of everything."""
    assert conditioning.hidden is not None
    told = conditioning.hidden.mean(dim=(1, 2))[:, None, None, None]
    return 0.3 * noisy.roll(1, -1) + told + timesteps[:, None, None, None] / 1000


def student(noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
    """Another one."""
    return 0.5 * teacher(noisy, timesteps, conditioning).tanh()


def batch() -> Batch:
    latents = normal(3, NUMBERS, "test", (4, 8, 8))
    hidden = normal(4, NUMBERS, "test", (2, 3))
    weight = torch.linspace(0.5, 2, len(NUMBERS))
    return Batch(NUMBERS, latents, Conditioning(hidden=hidden), weight, tuple(map(str, NUMBERS)))


def objective(kind: str = "epsilon", told: Any = teacher, **settings: Any) -> ConsistencyObjective:
    scheduler = DDIMScheduler(**BETAS, prediction_type=kind)
    return ConsistencyObjective(scheduler, 0, ConsistencySection(**settings), told, EMPTY)


@pytest.mark.parametrize("kind", TYPES)
def test_the_teacher_takes_guided_steps_of_ddim(kind: str) -> None:
    made, rows = objective(kind, guidance=3.0), batch()
    later, earlier = made.timesteps(NUMBERS)
    ddim = DDIMScheduler(**BETAS, prediction_type=kind, clip_sample=False, set_alpha_to_one=False)
    ddim.set_timesteps(50)
    noisy = rows.latents
    told = teacher(noisy, later, rows.conditioning)
    untold = teacher(noisy, later, Conditioning(hidden=torch.zeros(len(NUMBERS), 2, 3)))
    guided = untold + 3.0 * (told - untold)
    theirs = [
        ddim.step(guided[i : i + 1], int(t), noisy[i : i + 1], return_dict=False)[0]
        for i, t in enumerate(later)
    ]
    ours = made.teacher_step(noisy, later, earlier, rows.conditioning)
    torch.testing.assert_close(ours, torch.cat(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", TYPES)
def test_the_student_is_read_as_the_sampler_reads_it(kind: str) -> None:
    made, rows = objective(kind), batch()
    lcm = LCMScheduler(**BETAS, prediction_type=kind, clip_sample=False, original_inference_steps=50)
    lcm.set_timesteps(50)
    for timestep in (19, 259, 999):
        timesteps = torch.full((len(NUMBERS),), timestep)
        lcm._step_index = None
        output = student(rows.latents, timesteps, rows.conditioning)
        theirs = lcm.step(output, timestep, rows.latents, return_dict=False)[1]
        ours = made.consistent(student, rows.latents, timesteps, rows.conditioning)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_without_noise_the_picture_is_returned_as_it_is() -> None:
    rows, zero = batch(), torch.zeros(len(NUMBERS), dtype=torch.int64)
    assert torch.equal(objective().consistent(student, rows.latents, zero, rows.conditioning), rows.latents)


@pytest.mark.parametrize(
    ("settings", "distance"),
    [
        ({"loss": "l2"}, lambda d: d.square()),
        ({"loss": "smooth_l1", "huber_c": 0.01, "huber_schedule": "constant"},
         lambda d: 2 * ((d.square() + 1e-4).sqrt() - 0.01)),
    ],
)  # fmt: skip
def test_the_loss_is_that_of_the_paper(settings: dict[str, Any], distance: Any) -> None:
    made, rows = objective(**settings), batch()
    later, earlier = made.timesteps(NUMBERS)
    share = alpha_bar(later)
    noisy = share.sqrt() * rows.latents + (1 - share).sqrt() * normal(0, NUMBERS, "noise", (4, 8, 8))

    def read(x: Tensor, t: Tensor) -> Tensor:
        a, scaled = alpha_bar(t), 10.0 * t[:, None, None, None].float()
        clean = (x - (1 - a).sqrt() * student(x, t, rows.conditioning)) / a.sqrt()
        return 0.25 / (scaled**2 + 0.25) * x + scaled / (scaled**2 + 0.25).sqrt() * clean

    before = made.teacher_step(noisy, later, earlier, rows.conditioning)
    expected = distance(read(noisy, later) - read(before, earlier)).mean(dim=(1, 2, 3)) * rows.weight
    torch.testing.assert_close(made(student, rows), expected, rtol=1e-3, atol=1e-5)


def test_the_target_has_no_gradient() -> None:
    made, rows = objective(), batch()
    scale, seen = torch.tensor(0.7, requires_grad=True), []

    def scaled(noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return scale * student(noisy, timesteps, conditioning)

    made(scaled, rows).sum().backward()
    assert seen == [False, True]
    assert scale.grad is not None and scale.grad.isfinite() and scale.grad != 0


def test_one_picture_that_is_known_costs_nothing() -> None:
    """Where all pictures are one, the exact noise leads every point of the path to it."""
    rows = batch()

    def exact(noisy: Tensor, timesteps: Tensor, _: Conditioning) -> Tensor:
        share = alpha_bar(timesteps)
        picture = rows.latents.repeat(len(noisy) // len(rows.latents), 1, 1, 1)
        return (noisy - share.sqrt() * picture) / (1 - share).sqrt()

    later, _ = objective().timesteps(NUMBERS)
    assert (later > 100).any()  # where c_skip is next to nothing
    losses = objective(told=exact)(exact, rows)
    assert losses[later > 100].max() < 1e-6
    assert objective(told=exact)(student, rows)[later > 100].min() > 1e-3


def test_timesteps_are_those_of_the_solver() -> None:
    made = objective(solver_steps=25)
    later, earlier = made.timesteps(range(2000))
    assert sorted(set(later.tolist())) == list(range(39, 1000, 40))
    assert torch.equal(earlier, (later - 40).clamp(min=0))
    assert torch.equal(made.timesteps(range(7, 9))[0], later[7:9])
