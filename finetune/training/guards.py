"""What stops a run that went wrong: losses, gradients or weights that are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from finetune.backbones.finite import is_finite
from finetune.errors import NonFiniteLoss
from finetune.training.checkpoint import Checkpoint, split
from finetune.training.run_folder import RunFolder

MOST_OVERFLOWS = 25
"""Steps in a row that fp16 may skip while it looks for its loss scale: each halves it, starting at 65,536."""


class Guards:
    """Raise `NonFiniteLoss` in all processes alike; the message names the last good checkpoint.

    Args:
        accelerator: For the other processes, and whether fp16 skips steps.
        folder: Where the checkpoints are.
        steps: Steps of the whole run.
    """

    def __init__(self, accelerator: Accelerator, folder: RunFolder, steps: int) -> None:
        self._accelerator, self._folder, self._steps = accelerator, folder, steps
        self._overflows = 0

    def losses(self, step: int, losses: Sequence[float], names: Sequence[str]) -> None:
        """Checks the loss of each of a step's rows; the error names the bad rows."""
        here = [name for name, loss in zip(names, losses, strict=True) if not math.isfinite(loss)]
        if not self.any_process(bool(here)):
            return
        bad = gather_object(here)
        raise self._error(
            f"The loss became NaN or infinite at step {step}, on {', '.join(bad)}.",
            "Lower the learning rate, train with --precision fp32, or check these files.",
        )

    def gradient(self, step: int, norm: float) -> None:
        """Checks the norm of a step's gradient; the same in all processes."""
        # fp16 finds its loss scale by running into overflows, and then skips the step.
        self._overflows = 0 if math.isfinite(norm) else self._overflows + 1
        learned_nothing = self._overflows == self._steps  # yet the run would end like any other
        if self._overflows and self._accelerator.scaler is None:
            raise self._error(
                f"The gradient became {norm} at step {step}.",
                "Lower the learning rate, or train with --precision fp32.",
            )
        if self._overflows > MOST_OVERFLOWS or learned_nothing:
            raise self._error(
                f"The gradients of the last {self._overflows} steps were too large for fp16.",
                "Train with --precision bf16 or fp32, or for more steps if these were few.",
            )

    def weights(self, checkpoint: Checkpoint) -> None:
        """Checks what is about to be written."""
        kept = (checkpoint.weights, checkpoint.average, split(checkpoint.optimizer)[0])
        if bad := [name for tensors in kept for name, t in tensors.items() if not is_finite(t)]:
            raise self._error(
                f"The weights became infinite or NaN at step {checkpoint.step}, {bad[0]} first.",
                "Lower the learning rate or the weight decay, or train with --precision fp32.",
            )

    def any_process(self, here: bool) -> bool:
        """Whether `here` is true in any process: all must stop together, or some would wait forever."""
        if self._accelerator.num_processes == 1:
            return here
        flag = torch.tensor(float(here), device=self._accelerator.device)
        return bool(self._accelerator.reduce(flag, "sum"))

    def _error(self, what: str, fix: str) -> NonFiniteLoss:
        return NonFiniteLoss(f"{what} {self._folder.last_good()}\n  fix:   {fix}")
