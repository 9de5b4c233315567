"""Ways to damage safetensors and JSON files."""

from __future__ import annotations

import json
import math
import random
import struct
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

Tensors = dict[str, Tensor]
DTYPES = (
    *(torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float64, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float16),
)
NAMES = ("", "\x1b[31mred", "a\x00b", "ключ.alpha", "\u202e.lora_down.weight", "x" * 4000, "bundle_emb.", ".")
JUNK = (b"", b"null", b"[]", b"{", b"\xff\xfe\x00", b'"x"', b"7", b"[" * 9000, b'{"a": NaN}')
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 3, 1e308, "", "x", [], {}, [1, 2], [None], {"a": 1}, ["diffusers", 7]),
    *("\x1b[31m", math.nan),
)


# --- tensors --------------------------------------------------------------------------------------


def a_dtype(tensors: Tensors, key: str, draw: random.Random) -> None:
    """One tensor, or all of them, with another dtype."""
    dtype = draw.choice(DTYPES)
    for name in [key] if draw.random() < 0.5 else list(tensors):
        tensors[name] = tensors[name].to(dtype)


def a_shape(tensors: Tensors, key: str, draw: random.Random) -> None:
    """Transposed, cut, flattened, empty, or with more dimensions."""
    tensor = tensors[key]
    tensors[key] = draw.choice(
        (
            tensor.T if tensor.ndim == 2 else tensor[None],
            tensor[None, None],
            tensor.flatten(),
            tensor.flatten()[:1],
            torch.zeros(0),
            torch.zeros(0, *tensor.shape[1:]),
            torch.tensor(1.0),
            torch.cat([tensor.flatten()] * 2),
        )
    )


def a_value(tensors: Tensors, key: str, draw: random.Random) -> None:
    """NaN, infinity, or far too large."""
    value = draw.choice((math.nan, math.inf, -math.inf, 3e38, 1e300))
    whole = draw.random() < 0.5
    tensor = tensors[key].double() if value == 1e300 else tensors[key].float()
    tensors[key] = torch.full_like(tensor, value) if whole else tensor.flatten().clone()
    tensors[key].flatten()[:1] = value
    tensors[key] = tensors[key].view(tensor.shape)


def an_alpha(tensors: Tensors, key: str, draw: random.Random) -> None:
    """An absurd alpha, or several values."""
    stem = key.removesuffix(".lora_down.weight").removesuffix(".lora_up.weight")
    values = (1e38, -3e38, 0.0, -1.0, 1e-45, math.nan, 1e300)
    alpha = torch.tensor(draw.choice(values), dtype=torch.float64)
    tensors[f"{stem}.alpha"] = draw.choice((alpha, alpha.float(), alpha[None], alpha.repeat(3)))


def a_name(tensors: Tensors, key: str, draw: random.Random) -> None:
    """A key that no file should have, instead of another or in addition."""
    name = draw.choice(NAMES) + draw.choice(("", key))
    tensors[name] = tensors[key].clone() if draw.random() < 0.5 else tensors.pop(key)


def a_hole(tensors: Tensors, key: str, draw: random.Random) -> None:
    """One tensor, half of them, or all are missing."""
    kept = draw.choice(([n for n in tensors if n != key], list(tensors)[: len(tensors) // 2], [key], []))
    for name in set(tensors) - set(kept):
        del tensors[name]


TENSORS = (a_dtype, a_shape, a_value, an_alpha, a_name, a_hole)


def damaged(tensors: Tensors, draw: random.Random) -> tuple[str, bytes]:
    """How one or two of the tensors were damaged, and the bytes of the safetensors file."""
    spoiled, said = dict(tensors), []
    for _ in range(draw.choice((1, 1, 2))):
        if spoiled:
            spoil = draw.choice(TENSORS)
            spoil(spoiled, draw.choice(sorted(spoiled)), draw)
            said.append(spoil.__name__)
    return said[0], save({name: tensor.contiguous() for name, tensor in spoiled.items()})


# --- bytes ----------------------------------------------------------------------------------------


def broken(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file whose header or length is wrong."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    key = draw.choice(sorted(header))
    match draw.randrange(8):
        case 0:
            return data[: draw.randrange(len(data))]
        case 1:
            return struct.pack("<Q", draw.choice((0, 1, length - 1, length + 1, 2**40, 2**63))) + data[8:]
        case 2:
            return flipped(data, draw, 8 + length)
        case 3:
            junk = draw.choice(JUNK)
            return struct.pack("<Q", len(junk)) + junk + data[8 + length :]
        case 4:
            header[key]["dtype"] = draw.choice(("F4", "F8_E8M0", "F8_E4M3", "I1", "X", "", 7, None))
        case 5:
            header[key]["data_offsets"] = draw.choice(([0, 0], [0, 2**60], [-1, 4], [8, 4], None, "x"))
        case 6:
            header[key]["shape"] = draw.choice(([], [0], [-1], [2**62, 4], None, ["a"], [10**30]))
        case _:
            header["__metadata__"] = draw.choice(
                (7, [], {"a": 7}, {"lora_adapter_metadata": draw.choice(("[]", "{", "7", '{"unet.r": "x"}'))})
            )
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def flipped(data: bytes, draw: random.Random, end: int | None = None) -> bytes:
    """Some bytes are changed."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 3, 20))):
        changed[draw.randrange(end or len(changed))] = draw.randrange(256)
    return bytes(changed)


def wrong_json(data: bytes, draw: random.Random) -> bytes:
    """Not JSON, or JSON with one value replaced or missing."""
    if draw.random() < 0.2:
        return draw.choice((*JUNK, data[: len(data) // 2], flipped(data, draw)))
    content = json.loads(data)
    key = draw.choice(sorted(content))
    if draw.random() < 0.2:
        del content[key]
    else:
        content[key] = draw.choice(VALUES)
    return json.dumps(content).encode()
