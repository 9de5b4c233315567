"""The class of each family. A new family is a class, a row here, a case in `family_of`, and presets."""

from __future__ import annotations

from finetune.backbones.backbone import Backbone
from finetune.backbones.families import Family
from finetune.backbones.sd import StableDiffusion, StableDiffusion2
from finetune.backbones.sdxl import StableDiffusionXL

FAMILIES: dict[Family, type[Backbone]] = {
    "sd1": StableDiffusion,
    "sd2": StableDiffusion2,
    "sdxl": StableDiffusionXL,
}
