"""What makes a step faster on this machine, apart from what is trained."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from finetune.backbones.precision import PRECISIONS, best_device
from finetune.config import TrainingSection
from finetune.config.attention import ATTENTIONS
from finetune.errors import ConfigError
from finetune.kernels import attention, attention_by_products, compiled, swapped, tf32

_GAIN = 1.05  # xFormers must be faster by so much: less is chance
_TRIES = 10


def in_steps(model: nn.Module, training: TrainingSection) -> Callable[[], AbstractContextManager[None]]:
    """Makes what a trainer enters around each step and leaves after it.

    So previews, checkpoints and exports see the model as it is.

    Args:
        model: What is trained.
        training: The settings.
    """
    swaps = attention(model, training.attention) + (compiled(model) if training.compile else [])
    backward = attention_by_products if training.attention == "products" else nullcontext

    @contextmanager
    def inside() -> Iterator[None]:
        with swapped(swaps), tf32(training.tf32), backward():
            yield

    return inside


def check_speed(training: TrainingSection) -> None:
    """Tries what the settings ask for, on something tiny.

    Args:
        training: The settings, their precision settled.

    Raises:
        ConfigError: If something of it cannot be used on this machine.
    """
    device = best_device()
    if training.tf32 and (device.type != "cuda" or torch.cuda.get_device_capability() < (8, 0)):
        raise ConfigError(
            "TF32 needs an NVIDIA GPU of the Ampere generation or later.",
            where="training.tf32",
            fix="Leave it out.",
        )
    if training.attention not in ("auto", "sdpa", "products"):
        _check_attention(training.attention, device, PRECISIONS[training.precision])
    if training.compile and device.type == "cpu" and training.packed_weights:
        raise ConfigError(
            "On a CPU weights are either compiled with their layers or packed, not both.",
            where="training.compile",
            fix="Leave it out, or set training.packed_weights=false too.",
        )
    if training.compile and (reason := _failure(lambda: _compile_something(device))):
        raise ConfigError(
            f"PyTorch cannot compile on this machine: {reason}",
            where="training.compile",
            fix="Leave it out, or install what is missing: a C++ compiler, or Triton for an NVIDIA GPU.",
        )


def _check_attention(name: str, device: torch.device, dtype: torch.dtype) -> None:
    row = ATTENTIONS[name]
    if row.only_cuda and device.type != "cuda":
        reason = "needs an NVIDIA GPU, which this machine does not have."
    elif row.library and find_spec(row.library) is None:
        reason = f"needs the library {row.library}, which is not installed."
    elif failure := _failure(lambda: _attend_to_something(name, device, dtype)):
        reason = f"cannot be used here: {failure}"
    else:
        return
    raise ConfigError(
        f"The attention {name} {reason}",
        where="training.attention",
        fix="Leave it out: PyTorch's own attention (sdpa) needs just as little memory.",
    )


def fastest_attention(unet: Any, side: int, rows: int, dtype: torch.dtype) -> tuple[str, str | None]:
    """What `auto` means for a run: on a CPU `products` in bf16; on a GPU xFormers, if it is there and faster.

    On a GPU both compute forward and backward pass of the first self-attention, which has the most positions
    and so takes most of all attention's time.

    Args:
        unet: A UNet, on any device.
        side: Height and width of the latents.
        rows: Pictures per forward pass.
        dtype: Precision of the forward pass.

    Returns:
        A key of `ATTENTIONS`, and for xFormers a sentence that says why.
    """
    device = best_device()
    if device.type == "cpu" and dtype == torch.bfloat16:
        return "products", None
    if device.type != "cuda" or find_spec("xformers") is None:
        return "sdpa", None
    level, block = next(
        (level, block) for level, block in enumerate(unet.down_blocks) if hasattr(block, "attentions")
    )
    layer = copy.deepcopy(block.attentions[0].transformer_blocks[0].attn1).to(device, dtype)
    x = torch.ones(rows, (side // 2**level) ** 2, layer.query_dim, device=device, dtype=dtype)
    try:
        sdpa, other = (_seconds(layer, name, x.requires_grad_()) for name in ("sdpa", "xformers"))
    except Exception:  # it is not made for this GPU or this version of PyTorch, and says so in many ways
        return "sdpa", None
    if sdpa < _GAIN * other:
        return "sdpa", None
    return "xformers", f"xFormers computes attention, here {sdpa / other:.1f} times as fast as PyTorch."


def _seconds(layer: nn.Module, name: str, x: torch.Tensor) -> float:
    """The least of several times that a layer's forward and backward pass takes on a GPU."""
    times = []
    with swapped(attention(layer, name)):
        for _ in range(_TRIES):
            torch.cuda.synchronize()
            began = time.perf_counter()
            layer(x).sum().backward()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    return min(times)


def _attend_to_something(name: str, device: torch.device, dtype: torch.dtype) -> None:
    from diffusers.models.attention_processor import Attention

    layer = Attention(query_dim=64, heads=1, dim_head=64).to(device, dtype)
    with swapped(attention(layer, name)):
        layer(torch.ones(1, 8, 64, device=device, dtype=dtype)).sum().backward()


def _compile_something(device: torch.device) -> None:
    x = torch.ones(8, device=device, requires_grad=True)
    torch.compile(lambda x: torch.nn.functional.gelu(x).sum())(x).backward()


def _failure(attempt: Callable[[], None]) -> str | None:
    """The first line of what an attempt raised; None if it succeeded."""
    try:
        attempt()
    except Exception as error:  # compilers and other people's kernels raise all sorts of things
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None
