"""What the loss is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune.config.base import Section


class ObjectiveSection(Section):
    """What the loss is."""

    loss: Literal["l2"] = Field("l2", description="Distance between prediction and target.")
