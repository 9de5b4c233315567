"""Settings of the data that contradict each other, and where a cache is."""

from __future__ import annotations

from pathlib import Path

from finetune.config import DataSection
from finetune.data.cache import ContentCache
from finetune.errors import ConfigError
from finetune.files import remove_partials


def check_options(data: DataSection) -> None:
    """Refuses settings that would be ignored; needs no model, so call it before long work.

    Raises:
        ConfigError: If settings contradict each other.
    """
    if data.crop == "random" and data.cache:
        raise ConfigError(
            "Cached latents are those of one crop, so the crop cannot be drawn anew for each sample.",
            where="data.crop = random with data.cache = true",
            fix="Set data.cache to false (slower: every sample is encoded again), or data.crop to center.",
        )
    if data.mask != "none" and data.mask_dir is not None:
        raise ConfigError(
            "Masks are given twice: by the pictures' transparency and by a folder.",
            where=f"data.mask = {data.mask} with data.mask_dir = {data.mask_dir}",
            fix="Leave one of them out.",
        )
    if data.unmasked_weight and not data.masked:
        raise ConfigError(
            "A weight is given for where masks are black, but there are no masks.",
            where=f"data.unmasked_weight = {data.unmasked_weight:g}",
            fix="Give masks with data.mask_dir or data.mask=alpha, or leave data.unmasked_weight out.",
        )
    if data.cache_dir is not None and not data.cache:
        raise ConfigError(
            "A cache folder is given, but caching is off.",
            where=f"data.cache_dir = {data.cache_dir} with data.cache = false",
            fix="Leave data.cache_dir unset, or set data.cache to true.",
        )
    if data.cache_dir is not None and _occupied(data.cache_dir):
        raise ConfigError(
            "The cache folder is a file.",
            where=f"data.cache_dir = {data.cache_dir}",
            fix="Give a folder; it is made if it does not exist.",
        )


def _occupied(path: Path) -> bool:
    return path.exists() and not path.is_dir()


def cache_of(data: DataSection, kind: str) -> ContentCache | None:
    """Where things of a kind are kept, each in a folder of its own; None if nothing is to be kept."""
    if not data.cache:
        return None
    if data.cache_dir:
        remove_partials(data.cache_dir / kind, deep=True)
    return ContentCache(data.cache_dir / kind if data.cache_dir else None)
