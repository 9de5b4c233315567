"""safetensors files as they are written, and what may be in those that are read."""

from __future__ import annotations

import os
from pathlib import Path
from signal import SIGKILL

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file
from torch import Tensor

from finetune.backbones.stream import Planned, planned
from finetune.backbones.tensors import read_tensors
from finetune.errors import WeightsError
from finetune.files import remove_partials
from finetune.formats import write_tensors
from finetune.formats.tensors import check_floats, write_planned


@pytest.mark.parametrize(
    ("bad", "precision"),
    [
        (torch.tensor([1.0, torch.nan]), "float32"),
        (torch.tensor([1.0, -torch.inf]), "float32"),
        (torch.tensor([1.0, 70000.0]).half(), "float16"),
    ],
)
def test_what_is_not_finite_is_not_written(bad: torch.Tensor, precision: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with pytest.raises(WeightsError, match=f"b holds NaN or infinity in {precision}") as caught:
        write_tensors(file, {"a": torch.ones(2), "b": bad}, {})
    assert caught.value.where == str(file) and caught.value.fix
    assert not list(tmp_path.iterdir())
    write_tensors(file, {"a": torch.ones(2), "mark": torch.zeros(0)}, {})
    assert set(load_file(file)) == {"a", "mark"}


def test_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    """The library itself writes metadata in another order each time."""
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.float16)}
    metadata = {f"k{i}": "é" * i for i in range(20)}
    assert len({safetensors.torch.save(tensors, metadata) for _ in range(5)}) > 1  # else ours is not needed
    for name in "123":
        write_tensors(tmp_path / name, tensors, metadata)
    write_tensors(tmp_path / "4", dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    contents = {(tmp_path / name).read_bytes() for name in "1234"}
    assert len(contents) == 1
    read, metadata = read_tensors(tmp_path / "1")
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert metadata["k3"] == "ééé" and len(metadata) == 20
    assert int.from_bytes(contents.pop()[:8], "little") % 8 == 0
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked")
@pytest.mark.filterwarnings("ignore:.*fork")  # the child computes nothing
def test_a_kill_in_the_middle_leaves_no_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"old")
    there, done = torch.ones(1000), Planned((2,), torch.float32, lambda: os.kill(os.getpid(), SIGKILL))  # type: ignore[arg-type,return-value]
    if not (child := os.fork()):
        try:
            write_planned(file, {"a": planned(there), "b": done}, {"modelspec.sai_model_spec": "1.0.0"})
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -SIGKILL
    assert file.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2  # it was killed while it wrote
    remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("name", "tensor", "told"),
    [
        ("q.alpha", torch.tensor(4), None),
        ("q.alpha", torch.tensor([4], dtype=torch.int16), None),
        ("q.alpha", torch.tensor([4, 4]), "int64"),
        ("q.alpha", torch.tensor(True), "bool"),
        ("q.alpha", torch.tensor(4j), "complex64"),
        ("q.lora_up.weight", torch.tensor(4), "int64"),
        ("q.lora_up.weight", torch.ones(2, 2, dtype=torch.bfloat16), None),
    ],
)
def test_weights_are_floats_and_an_alpha_may_be_one_integer(
    name: str, tensor: Tensor, told: str | None
) -> None:
    tensors = {"k": torch.ones(2), name: tensor}
    if told is None:
        check_floats(tensors, Path("x"))
    else:
        with pytest.raises(WeightsError, match=rf"but {name} is {told}\."):
            check_floats(tensors, Path("x"))


@pytest.mark.parametrize(("count", "told"), [(3, "n2 is int64."), (4, "n2 is int64; and 1 more.")])
def test_the_first_three_that_are_no_floats_are_named(count: int, told: str) -> None:
    with pytest.raises(WeightsError) as caught:
        check_floats({f"n{i}": torch.ones(2).long() for i in range(count)}, Path("x"))
    assert caught.value.what.endswith(f"n0 is int64; n1 is int64; {told}")
