"""Pictures and captions in, batches of latents and conditioning out."""

from finetune.data.cache import ContentCache
from finetune.data.folder import Folder, Picture, Skipped, scan_folder
from finetune.data.latents import Latents, Posterior, StackedLatents, View
from finetune.data.source import LatentSource, PictureSource, check_options
from finetune.data.texts import HiddenTexts, Texts, TokenTexts

__all__ = [
    "ContentCache",
    "Folder",
    "HiddenTexts",
    "LatentSource",
    "Latents",
    "Picture",
    "PictureSource",
    "Posterior",
    "Skipped",
    "StackedLatents",
    "Texts",
    "TokenTexts",
    "View",
    "check_options",
    "scan_folder",
]
