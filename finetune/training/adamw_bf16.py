"""AdamW with a third of its memory: moments, and weights if they are, in bf16, rounded at random.

bf16 has 8 significant bits, so a weight or a second moment that changes by less than a 512th of itself in a
step would never change if it were rounded to the nearest. Rounded up or down at random, with the probability
of each by its closeness, it changes by the right amount on average (Gupta et al. 2015, arXiv:1502.02551; for
bf16 weights Zamirai et al. 2020, arXiv:2010.06192).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from finetune.config.optimizers import BETAS, EPS

_AT_ONCE = 2**18  # values; their fp32 copies stay in a processor's cache
_NOISE = 2**20


class AdamWBF16(torch.optim.Optimizer):
    """Adam with decoupled weight decay (arXiv:1711.05101), its moments in bf16.

    The arithmetic is that of PyTorch's fused AdamW, in fp32, on a piece of each tensor at a time. Of the
    results, second moments and bf16 weights are rounded at random, and first moments, which change by a tenth
    a step, to the nearest; fp32 weights are exact. The random numbers are a function of the step alone, the
    same on every device, so a resumed run ends in the same bytes.

    Args:
        params: Parameters in fp32 or bf16, or groups of them.
        lr: Learning rate.
        betas: β1 and β2.
        eps: ε.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._noise = (-1, torch.empty(0))  # of which step

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient.

        Args:
            closure: Not used.
        """
        for group in self.param_groups:
            for index, parameter in enumerate(group["params"]):
                if parameter.grad is not None:
                    self._update(parameter, group, index)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any], index: int) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        noise = self._noise_of(int(state["step"]), parameter.device)
        assert parameter.grad is not None
        rows = _pieces(parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
        for number, kept in enumerate(rows):
            weight, gradient, mean, square = (tensor.float() for tensor in kept)
            step = state["step"].to(weight.device, copy=True)
            adamw(
                *([weight], [gradient], [mean], [square], [], [step]),
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
            first = 7919 * (31 * index + number)  # another part of the noise for each piece
            kept[2].copy_(mean)
            kept[3].copy_(rounded(square, _part(noise, first, square)))
            if kept[0].dtype == torch.bfloat16:
                kept[0].copy_(rounded(weight, _part(noise, first + _NOISE // 2, weight)))
        state["step"] += 1

    def _noise_of(self, step: int, device: torch.device) -> Tensor:
        if self._noise[0] != step or self._noise[1].device != device:
            drawn = torch.randint(
                0, 2**16, (_NOISE,), dtype=torch.int32, generator=torch.Generator().manual_seed(step)
            )
            self._noise = step, drawn.to(device)
        return self._noise[1]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave.

        Args:
            state_dict: Its groups and the state of each parameter by number.
        """
        # PyTorch's own would convert the moments to the type of the parameters.
        super().load_state_dict({**state_dict, "state": {}})
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, values in state_dict["state"].items():
            parameter = parameters[number]
            moments = {name: values[name] for name in ("exp_avg", "exp_avg_sq")}
            self.state[parameter] = {"step": values["step"].clone()} | {
                name: torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)
                for name, moment in moments.items()
            }


def rounded(exact: Tensor, noise: Tensor) -> Tensor:
    """fp32 rounded at random to what bf16 can hold.

    Args:
        exact: fp32, contiguous.
        noise: int32 of the same shape, uniform in [0, 65536).

    Returns:
        fp32 whose lower 16 bits are zero: each value's neighbor below or above in bf16, with the probability
        by which the value is closer to it.
    """
    return (exact.view(torch.int32) + noise).bitwise_and_(-(2**16)).view(torch.float32)


def _part(noise: Tensor, first: int, like: Tensor) -> Tensor:
    """As many of the random numbers as `like` has values, from `first` on."""
    start = first % (_NOISE - _AT_ONCE)
    return noise[start : start + like.numel()]


def _pieces(*tensors: Tensor) -> Iterable[Sequence[Tensor]]:
    """Tensors of one shape as flat pieces that lie in memory as the first does."""
    first, flat = tensors[0], []
    for tensor in tensors:
        if tensor.stride() != first.stride():  # a gradient in another layout
            tensor = torch.empty_like(first, dtype=tensor.dtype).copy_(tensor)
        flat.append(tensor.detach().as_strided((tensor.numel(),), (1,)).split(_AT_ONCE))
    return zip(*flat, strict=True)
