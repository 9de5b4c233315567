"""The settings of a run, each defined once (promise P5).

The YAML file, the command-line flags, `--help`, the JSON schema and the metadata of an exported
file are all made from these types. A field's description is its help text.
"""

from finetune.config.adapters import ControlNetSection, EmbeddingSection, FullSection, LoRASection
from finetune.config.base import Positive, Section
from finetune.config.captions import CaptionsSection
from finetune.config.data import CaptionedSection, DataSection, SubjectSection
from finetune.config.model import ModelSection, public_name
from finetune.config.objective import ObjectiveSection
from finetune.config.optimizer import OptimizerSection
from finetune.config.pairs import ControlKind, PairsSection
from finetune.config.samplers import SchedulerName
from finetune.config.sources import PairsSourceSection, SourceSection, SubjectSourceSection
from finetune.config.training import (
    ModelOutputSection,
    OutputSection,
    PreviewSection,
    TrainingSection,
    WeightsOutputSection,
)

__all__ = [
    "CaptionedSection",
    "CaptionsSection",
    "ControlKind",
    "ControlNetSection",
    "DataSection",
    "EmbeddingSection",
    "FullSection",
    "LoRASection",
    "ModelOutputSection",
    "ModelSection",
    "ObjectiveSection",
    "OptimizerSection",
    "OutputSection",
    "PairsSection",
    "PairsSourceSection",
    "Positive",
    "PreviewSection",
    "SchedulerName",
    "Section",
    "SourceSection",
    "SubjectSection",
    "SubjectSourceSection",
    "TrainingSection",
    "WeightsOutputSection",
    "public_name",
]
