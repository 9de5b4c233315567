"""safetensors files written tensor by tensor, against the safetensors library's own."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from finetune.backbones.stream import Planned, joined, planned, write_stream
from finetune.errors import WeightsError

TYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {"é": '"\n\u2028'}])
def test_the_bytes_are_those_of_the_library(metadata: dict[str, str], tmp_path: Path) -> None:
    tensors = {f"{letter}.{7 * i % 18:02}": drawn(3, 2).to(t) for i, t in enumerate(TYPES) for letter in "ba"}
    tensors |= {"none": torch.zeros(0), "one": torch.tensor(2.5).half(), 'é"\n': drawn(2, 1, 3).bfloat16()}
    tensors |= {"no rows": torch.zeros(0, 4), "turned": drawn(3, 4).T, "part": drawn(5, 4)[1:3, ::2]}
    file = tmp_path / "x.safetensors"
    write_stream(file, {name: planned(tensor) for name, tensor in tensors.items()}, metadata, "x")
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    assert file.read_bytes() == safetensors.torch.save(whole, metadata)


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def make(number: int) -> Tensor:
        nonlocal most
        tensor = torch.full((4, 4), float(number))
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    names = [f"{i:02}" for i in range(20)]
    plan = {name: Planned((4, 4), torch.float32, lambda i=i: make(i)) for i, name in enumerate(names)}
    write_stream(tmp_path / "x", plan, {}, "x")
    assert most <= 2  # the last one may still be there while the next is made
    read = safetensors.torch.load_file(tmp_path / "x")
    assert [int(read[name][0, 0]) for name in names] == list(range(20))


def test_what_is_made_from_others(tmp_path: Path) -> None:
    a, b = drawn(2, 3), drawn(4, 3)
    plan = {
        "below": joined([planned(a), planned(b)]),
        "turned": planned(a).through(lambda tensor: tensor.T, (3, 2)),
        "half": joined([planned(a), planned(b)]).cast(torch.float16),
        "as it is": planned(a).cast(None),
    }
    write_stream(tmp_path / "x", plan, {}, "x")
    read = safetensors.torch.load_file(tmp_path / "x")
    below = torch.cat([a, b])
    expected = {"below": below, "turned": a.T, "half": below.half(), "as it is": a}
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[n], t) and read[n].dtype == t.dtype for n, t in expected.items())


def test_what_is_not_as_planned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a has the shape \(2,\), not \(3,\)"):
        write_stream(tmp_path / "x", {"a": Planned((3,), torch.float32, lambda: torch.ones(2))}, {}, "x")
    large = planned(torch.tensor([70000.0])).cast(torch.float16)
    with pytest.raises(WeightsError, match="a holds NaN or infinity in float16") as caught:
        write_stream(tmp_path / "x", {"a": large}, {}, "the file")
    assert caught.value.where == "the file"
