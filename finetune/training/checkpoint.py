"""Checkpoints: everything that resuming to the bit needs, and only data (promises P2 and P6).

Random draws are functions of the sample number (P1), and the learning rate is one of the step, so a
checkpoint is the trained parameters, their average, the optimizer's state and the step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.config.optimizers import OPTIMIZERS
from finetune.errors import PlaceError, WeightsError, of_the_system
from finetune.files import sha256_of, whole_folder
from finetune.training.run_folder import RunFolder, step_of

SUMS = "SHA256SUMS"
"""What every other file of a checkpoint must hash to, as `sha256sum --check` reads it."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` optimizer steps.

    Attributes:
        step: Optimizer steps taken.
        weights: The trained parameters by name.
        average: Their average by name; empty if none is kept.
        optimizer: `optimizer.state_dict()["state"]`: parameter index → name → tensor or number.
        counters: What the optimizer keeps for each group of parameters, such as Prodigy's estimate.
        scaler: State of the fp16 gradient scaler; empty in other precisions.
        run: What the run is, to be compared on resume.
    """

    step: int
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizer: Mapping[int, Mapping[str, Any]]
    counters: Sequence[Mapping[str, Any]] = ()
    scaler: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


class _Facts(BaseModel):
    """What `state.json` holds."""

    model_config = ConfigDict(strict=True, extra="forbid")

    step: PositiveInt
    optimizer: dict[str, dict[str, Any]]
    counters: list[dict[str, Any]]
    scaler: dict[str, Any]
    run: dict[str, Any]


def keep_checkpoint(folder: RunFolder, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint into its run folder.

    Raises:
        PlaceError: If it cannot be written; the last checkpoint is untouched.
    """
    path = folder.checkpoint(checkpoint.step)
    try:
        write_checkpoint(path, checkpoint)
    except OSError as error:
        reason = fault.what if (fault := of_the_system(error)) else error
        raise PlaceError(
            f"The checkpoint of step {checkpoint.step} cannot be written: {reason} {folder.last_good()}",
            where=str(path),
            fix="Free some space or choose another folder; --resume continues from the last checkpoint.",
        ) from error


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes the folder `path`, whole or not at all, with the digests of its files."""
    tensors, numbers = split(checkpoint.optimizer)
    facts = _Facts(
        step=checkpoint.step,
        optimizer=numbers,
        counters=[dict(group) for group in checkpoint.counters],
        scaler=dict(checkpoint.scaler),
        run=dict(checkpoint.run),
    )
    with whole_folder(path) as folder:
        save_file(_plain(checkpoint.weights), folder / "weights.safetensors")
        save_file(_plain(checkpoint.average), folder / "average.safetensors")
        save_file(_plain(tensors), folder / "optimizer.safetensors")
        text = json.dumps(facts.model_dump(), indent=1, sort_keys=True)
        (folder / "state.json").write_text(text, encoding="utf-8")
        sums = [f"{sha256_of(file)}  {file.name}\n" for file in sorted(folder.iterdir())]
        (folder / SUMS).write_text("".join(sums), encoding="utf-8")


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads what `write_checkpoint` wrote.

    Raises:
        WeightsError: If the folder is damaged: not to the byte what was written.
    """
    try:
        _check_sums(path)
        facts = _Facts.model_validate_json((path / "state.json").read_bytes())
        if facts.step != step_of(path):
            raise ValueError(f"it is from step {facts.step}")
        return Checkpoint(
            step=facts.step,
            weights=load_file(path / "weights.safetensors"),
            average=load_file(path / "average.safetensors"),
            optimizer=_join(load_file(path / "optimizer.safetensors"), facts.optimizer),
            counters=facts.counters,
            scaler=facts.scaler,
            run=facts.run,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = "state.json is not valid" if isinstance(error, ValidationError) else error
        raise WeightsError(
            f"This checkpoint is damaged: {reason}.",
            where=str(path),
            fix="Start the run again without --resume; it gets a new folder.",
        ) from error


def _check_sums(path: Path) -> None:
    """Raises ValueError for the first file that is missing, changed or unexpected."""
    lines = (path / SUMS).read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = {file.name for file in path.iterdir()} - {SUMS}
    if there != set(sums):
        raise ValueError(f"{', '.join(sorted(there ^ set(sums)))} is missing or does not belong there")
    for name, digest in sums.items():
        if sha256_of(path / name) != digest:
            raise ValueError(f"the checksum of {name} does not match")


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain, held = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        plain[name] = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory, as bitsandbytes' tables do.
        if (place := plain[name].untyped_storage().data_ptr()) in held:
            plain[name] = plain[name].clone()
        held.add(place)
    return plain


def split(state: Mapping[Any, Any], path: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Splits a nested dictionary into tensors by path and the rest, nested as before."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            tensors[f"{path}{key}"] = value
        elif isinstance(value, Mapping):  # bitsandbytes nests its quantization tables
            inner, rest[str(key)] = split(value, f"{path}{key}/")
            tensors.update(inner)
        else:
            rest[str(key)] = value
    return tensors, rest


def _join(tensors: Mapping[str, Tensor], rest: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The reverse of `split`."""
    for path, tensor in tensors.items():
        *folders, name = path.split("/")
        place = rest
        for folder in folders:
            place = place[folder]
        place[name] = tensor
    return {int(index): entries for index, entries in rest.items()}


def optimizer_counters(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What `optimizer` counts and estimates for each group, besides the state of the parameters."""
    counters = dict.fromkeys(key for row in OPTIMIZERS.values() for key in row.kept)
    return [{key: group[key] for key in counters if key in group} for group in optimizer.param_groups]


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    state: Mapping[int, Mapping[str, Any]],
    counters: Sequence[Mapping[str, Any]],
) -> None:
    """Restores the parameters' state and what `optimizer_counters` gave; the settings stay as they are."""
    groups = optimizer.state_dict()["param_groups"]
    kept = [{**group, **counted} for group, counted in zip(groups, counters, strict=True)]
    optimizer.load_state_dict({"state": dict(state), "param_groups": kept})
