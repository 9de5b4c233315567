"""Pictures and captions in, batches of latents and conditioning out."""

from finetune.data.cache import ContentCache
from finetune.data.controls import PairSource
from finetune.data.folder import Folder, Picture, Skipped, scan_folder
from finetune.data.latents import Latents, Posterior, StackedLatents, View
from finetune.data.pairs import PairedFolder, scan_pairs
from finetune.data.prior import PriorSource
from finetune.data.source import LatentSource, PictureSource
from finetune.data.texts import HiddenTexts, Texts, TokenTexts

__all__ = [
    "ContentCache",
    "Folder",
    "HiddenTexts",
    "LatentSource",
    "Latents",
    "PairSource",
    "PairedFolder",
    "Picture",
    "PictureSource",
    "Posterior",
    "PriorSource",
    "Skipped",
    "StackedLatents",
    "Texts",
    "TokenTexts",
    "View",
    "scan_folder",
    "scan_pairs",
]
