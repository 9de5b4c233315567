"""Damaged run folders: resumed bit-exactly from what is intact, or refused with a message that says where."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file, save_file

from finetune.files import remove_partials, sha256_of
from finetune.recipes.place import LOCK
from tests.campaigns.campaign import Campaign, Verdict
from tests.campaigns.child import Child
from tests.campaigns.kills import killed_before
from tests.campaigns.runs import Runs, tree

Damage = Callable[[Path, random.Random], None]
CHECKPOINT = "step-000004"
_JSON = ("", "null", '"2"', "[]", "{}", "[" * 9000, '{"step": 4}', "NaN", "\x00", '{"step": 4, "step": 2}')
_STEPS = (3, 0, -1, 99, 10**30, True, None, "4", 4.5, [4], {"a": 1})


def _files(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file())


def flip(run: Path, draw: random.Random) -> None:
    """One flipped bit in one file."""
    file = draw.choice([f for f in (run / "checkpoints").rglob("*") if f.is_file() and f.stat().st_size])
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def cut(run: Path, draw: random.Random) -> None:
    """One file is truncated."""
    file = draw.choice(_files(run))
    file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size + 1)])


def lose(run: Path, draw: random.Random) -> None:
    """One file is missing."""
    draw.choice(_files(run)).unlink()


def overwrite(run: Path, draw: random.Random) -> None:
    """One file holds something else."""
    draw.choice(_files(run)).write_bytes(draw.choice((b"", b"\xff\xfe\x00", draw.randbytes(5000), b"{}")))


def swap_kind(run: Path, draw: random.Random) -> None:
    """A folder in place of a file, or a file in place of a folder."""
    path = draw.choice(sorted(path for path in run.rglob("*")))
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
    else:
        path.unlink()
        path.mkdir()


def odd_state(run: Path, draw: random.Random) -> None:
    """`state.json` holds other JSON; its checksum matches in half of the cases."""
    file = run / "checkpoints" / CHECKPOINT / "state.json"
    if draw.random() < 0.5:
        file.write_text(draw.choice(_JSON))
    else:
        facts = json.loads(file.read_text())
        key = draw.choice(sorted(facts))
        facts[key] = draw.choice(_STEPS) if key != "scaler" else draw.choice((None, [], "x", 3))
        file.write_text(json.dumps(facts))
    if draw.random() < 0.5:
        _sum(file.parent)


def odd_weights(run: Path, draw: random.Random) -> None:
    """A tensor of another shape or dtype, or missing; the checksum of the weights matches."""
    folder = run / "checkpoints" / CHECKPOINT
    file = folder / draw.choice(("weights.safetensors", "optimizer.safetensors"))
    tensors = load_file(file)
    name = draw.choice(sorted(name for name, tensor in tensors.items() if tensor.dim() == 2))
    changed = draw.choice((
        lambda tensor: tensor[:1, :1].contiguous(), lambda tensor: tensor.int(), torch.Tensor.double,
        lambda tensor: tensor.unsqueeze(0), None,
    ))  # fmt: skip
    tensor = tensors.pop(name)
    if changed:
        tensors[name] = changed(tensor)
    save_file(tensors, file)
    if file.name.startswith("weights"):
        _sum(folder)


def _sum(folder: Path) -> None:
    sums = [f"{sha256_of(f)}  {f.name}\n" for f in sorted(folder.iterdir()) if f.name != "SHA256SUMS"]
    (folder / "SHA256SUMS").write_text("".join(sums))


DAMAGES: tuple[Damage, ...] = (flip, cut, lose, overwrite, swap_kind, odd_state, odd_weights)


class Attacks(Campaign):
    """Each attack damages a copy of an unfinished run and resumes it."""

    name: ClassVar[str] = "folders"
    small: ClassVar[int] = 7
    large: ClassVar[int] = 100

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._runs = Runs(place)
        self._wanted, _ = self._runs.straight("lora")
        self._base = place / "base"
        self._base.mkdir()
        # Killed just before it writes its third checkpoint, or the results.
        for operation in range(40, 400, 10):
            Child(
                ["run", str(self._runs.recipe("lora"))],
                self._base,
                before=killed_before(operation, self._base),
            ).wait()
            if (self._base / "runs/mycat-lora/checkpoints" / CHECKPOINT).is_dir():
                break
            shutil.rmtree(self._base)
            self._base.mkdir()
        remove_partials(self._base, deep=True)
        (self._base / "runs/mycat-lora" / LOCK).unlink()

    def attack(self, number: int) -> Verdict:
        """Does damage `number` modulo 7 and resumes from the recipe, or from the run folder."""
        draw = random.Random(number)
        damage = DAMAGES[number % len(DAMAGES)]
        folder = self.place / f"folder-{number}"
        shutil.copytree(self._base, folder, symlinks=True)
        run = folder / "runs" / "mycat-lora"
        damage(run, draw)
        before = tree(run)
        recipe = self._runs.recipe("lora") if draw.random() < 0.7 else run
        ended = Child(["run", str(recipe), "--resume"], folder).wait()
        failure = ended.unexpected(0, 2)
        if not failure and ended.code == 2:
            after = tree(run)
            if "where" not in ended.err:
                failure = f"the message does not say where: {ended.err}"
            elif after != before:
                failure = f"exit code 2, but the run folder was changed: {ended.err}"
        elif not failure:
            failure = self._same(tree(folder), ended.out)
        shutil.rmtree(folder)
        return Verdict((damage.__doc__ or damage.__name__).rstrip(".").lower(), failure)

    def _same(self, found: dict[str, str], said: str) -> str | None:
        for name, content in self._wanted.items():
            if name.endswith(".safetensors") and name.startswith("runs/mycat-lora/mycat-lora"):
                return None if found.get(name) == content else f"{name} differs after: {said}"
        return "there is no result to compare with"
