"""Checks precision and optimizer before anything large is loaded."""

from __future__ import annotations

import torch
from torch import nn

from finetune.config import OptimizerSection, TrainingSection
from finetune.training.average import check_average
from finetune.training.device import checked_precision
from finetune.training.optimizers import make_optimizer


def check_trainable(training: TrainingSection, optimizer: OptimizerSection) -> None:
    """Refuses now what the trainer would refuse after the model is loaded.

    Raises:
        ConfigError: If the precision or the optimizer is not available on this machine.
    """
    checked_precision(training)
    check_average(training, optimizer)
    make_optimizer([{"params": [nn.Parameter(torch.zeros(1))], "lr": optimizer.lr}], optimizer)
