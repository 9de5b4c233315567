"""Whether a machine can train as the settings ask, told before any long work."""

from __future__ import annotations

import torch
from torch import nn

from finetune.config import OptimizerSection, TrainingSection
from finetune.training.average import check_average
from finetune.training.device import checked_precision
from finetune.training.optimizers import make_optimizer


def check_trainable(training: TrainingSection, optimizer: OptimizerSection) -> None:
    """Tries out what making the trainer would refuse later.

    Raises:
        ConfigError: If the precision or the optimizer cannot be had on this machine.
    """
    checked_precision(training)
    check_average(training, optimizer)
    make_optimizer([{"params": [nn.Parameter(torch.zeros(1))], "lr": optimizer.lr}], optimizer)
