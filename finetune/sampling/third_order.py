"""DPM-Solver++ (3M) SDE with the step that k-diffusion has."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor


class ThirdOrderSDE(DPMSolverMultistepScheduler):  # type: ignore[misc]
    """diffusers' scheduler with another third-order step.

    With α and σ of the noise levels, λ = log(α/σ) and h = λ_t − λ_s, an exact step from s to t is

    x_t = σ_t/σ_s e⁻ʰ x_s + α_t ∫₀ʰ 2 e^(−2(h−τ)) m(λ_s + τ) dτ + σ_t √(1 − e⁻²ʰ) z

    where m is the prediction of the clean latents. For it stands a polynomial of degree two through its last
    three values (Lu et al. 2022, arXiv:2211.01095), whose bend k-diffusion's `sample_dpmpp_3m_sde` halves.
    In diffusers 0.42 the factor of the bend has −1/2 where the integral has +1/2, so that with many steps the
    latents become too wide or diverge.
    """

    def multistep_dpm_solver_third_order_update(
        self, model_output_list: list[Tensor], *args: Any, sample: Tensor, noise: Tensor, **kwargs: Any
    ) -> Tensor:
        """One step, as diffusers calls it.

        Args:
            model_output_list: The last three predictions of the clean latents, the newest last.
            args: None.
            sample: The latents.
            noise: Standard normal noise of their shape.
            kwargs: None.
        """
        index = self.step_index
        levels = [self._sigma_to_alpha_sigma_t(self.sigmas[i]) for i in range(index + 1, index - 3, -1)]
        (alpha, sigma), (_, sigma_now), *_ = levels
        t, s, s1, s2 = (torch.log(a) - torch.log(b) for a, b in levels)
        h, before = t - s, (s - s1, s1 - s2)
        newest, second, third = model_output_list[-1], model_output_list[-2], model_output_list[-3]
        slopes = h / before[0] * (newest - second), h / before[1] * (second - third)
        bend = h / (before[0] + before[1]) * (slopes[0] - slopes[1])
        slope = slopes[0] + before[0] / h * bend
        decay = torch.exp(-2 * h)
        first = 1 - (1 - decay) / (2 * h)
        stepped: Tensor = (
            sigma / sigma_now * torch.exp(-h) * sample
            + alpha * ((1 - decay) * newest + first * slope + (0.5 - first / (2 * h)) * bend)
            + sigma * torch.sqrt(1 - decay) * noise
        )
        return stepped
