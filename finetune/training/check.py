"""Checks before long work what depends on the machine."""

from __future__ import annotations

import torch
from torch import nn

from finetune.config import OptimizerSection, TrainingSection
from finetune.training.average import check_average
from finetune.training.device import checked_precision
from finetune.training.optimizers import make_optimizer
from finetune.training.speed import check_speed
from finetune.training.trackers import check_trackers


def check_trainable(training: TrainingSection, optimizer: OptimizerSection) -> None:
    """Refuses now what the trainer would refuse after the model is loaded.

    Raises:
        ConfigError: If precision, optimizer, a tracker or what makes steps faster is not available on this
            machine.
    """
    precision = checked_precision(training)
    check_speed(training.model_copy(update={"precision": precision}))
    check_average(training, optimizer)
    check_trackers(training)
    make_optimizer([{"params": [nn.Parameter(torch.zeros(1))], "lr": optimizer.lr}], optimizer)
