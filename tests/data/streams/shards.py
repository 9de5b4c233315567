"""WebDataset shards, written with tarfile."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from tests.data.conftest import painted

Members = Mapping[str, bytes]
"""Bytes by file name."""

SHAPES = [(48, 32), (32, 48), (40, 40), (36, 32)]


def png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def members(number: int, **more: bytes) -> Members:
    """Picture, caption and control picture of a sample; the control picture is as large."""
    width, height = SHAPES[number % len(SHAPES)]
    own = {
        "png": png(painted(width, height, number)),
        "conditioning.png": png(painted(width, height, 100 + number)),
        "txt": f"picture {number}\n".encode(),
    }
    return {f"{number:03}.{suffix}": data for suffix, data in {**own, **more}.items()}


def write_shard(path: Path, samples: Sequence[Members]) -> Path:
    """Writes one shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for sample in samples:
            for name, data in sample.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def write_shards(folder: Path, count: int = 11, each: int = 4) -> Path:
    """A folder of shards of so many samples; the last one may have fewer."""
    for first in range(0, count, each):
        samples = [members(number) for number in range(first, min(first + each, count))]
        write_shard(folder / f"{first // each:02}.tar", samples)
    return folder


def held(folder: Path) -> dict[str, bytes]:
    """The members of all shards, by shard and name, as tarfile reads them."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                assert file is not None
                found[f"{path.name}/{member.name}"] = file.read()
    return found
