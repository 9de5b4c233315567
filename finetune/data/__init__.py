"""Pictures and captions in, batches of latents and conditioning out."""

from finetune.data.controls import PairSource
from finetune.data.folder import Folder, Picture, scan_folder
from finetune.data.latents import View
from finetune.data.pairs import PairedFolder, scan_pairs
from finetune.data.prior import PriorSource
from finetune.data.several import scan_class_sources, scan_folders, scan_paired_folders
from finetune.data.source import PictureSource

__all__ = [
    "Folder",
    "PairSource",
    "PairedFolder",
    "Picture",
    "PictureSource",
    "PriorSource",
    "View",
    "scan_class_sources",
    "scan_folder",
    "scan_folders",
    "scan_paired_folders",
    "scan_pairs",
]
