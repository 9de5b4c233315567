"""Captions for pictures that have none, written by a vision model."""

from __future__ import annotations

from finetune.captioning.captioner import Caption, Captioner, load_captioner
from finetune.captioning.folder import Captioned, Uncaptioned, find_uncaptioned, write_captions

__all__ = [
    "Caption",
    "Captioned",
    "Captioner",
    "Uncaptioned",
    "find_uncaptioned",
    "load_captioner",
    "write_captions",
]
