"""Device, precision and processes of a run, through accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from finetune.backbones.precision import best_device, dtype_on, precision_name
from finetune.config import TrainingSection
from finetune.errors import ConfigError


def checked_precision(training: TrainingSection) -> str:
    """The precision that `auto` means here, or the one that was asked for.

    Raises:
        ConfigError: If it is not available on this machine.
    """
    precision = precision_name(dtype_on(training.precision, best_device()))
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError(
            "fp16 training needs a GPU.", where="training.precision", fix="Use fp32 or bf16 on a CPU."
        )
    return precision


def check_alone(accelerator: Accelerator) -> None:
    """Refuses several processes, which average gradients when the steps inside the backward pass are taken.

    Raises:
        ConfigError: If there are several.
    """
    if accelerator.num_processes > 1:
        raise ConfigError(
            "Steps inside the backward pass need one process: several first average their gradients.",
            where="optimizer.in_backward",
            fix="Set optimizer.in_backward=false, or start one process.",
        )


def forget_earlier_runs() -> None:
    """Lets a process's next `Accelerator` have a precision and a device of its own.

    accelerate keeps the precision of a process's first run and would refuse another in its second, and
    an earlier caller may not have asked for the CPU.

    Relies on `AcceleratorState._reset_state` (accelerate 1.15) forgetting both while the processes stay
    connected; the only public call that drops an old state, `end_training`, disconnects the processes.
    `tests/test_inside_libraries.py` checks it.
    """
    AcceleratorState._reset_state(reset_partial_state=True)


def make_accelerator(training: TrainingSection, *, trains_text: bool) -> Accelerator:
    """The accelerator of a run with these settings.

    Args:
        training: Precision.
        trains_text: Whether text encoders are trained.

    Raises:
        ConfigError: If the precision is not available on this machine.
    """
    precision = checked_precision(training)
    forget_earlier_runs()
    # SDXL does not use the last layer of its first text encoder, which so gets no gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=trains_text)
    return Accelerator(
        kwargs_handlers=[unused],
        # Without a GPU, accelerate would otherwise take each process that torchrun starts for the only one.
        cpu=best_device().type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
    )
