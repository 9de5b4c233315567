"""The families of models, apart from `tests.tiny`: pytest-xdist's own process needs no torch for them."""

from __future__ import annotations

from typing import Literal

Family = Literal["sd1", "sd2", "sdxl"]
FAMILIES: tuple[Family, ...] = ("sd1", "sd2", "sdxl")
