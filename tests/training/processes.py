"""What each process of `test_processes.py` does: `python -m tests.training.processes OUT MODEL …`."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finetune.adapters.lora import LoRA
from finetune.backbones import load_backbone
from finetune.config import DataSection, LoRASection, ModelSection, OptimizerSection, TrainingSection
from finetune.data import PictureSource, scan_folder
from finetune.data.cache import ContentCache, content_key
from finetune.data.encoded import Encoded, chunked
from finetune.diffusion.objective import Objective
from finetune.errors import Interrupted, NonFiniteLoss
from finetune.recipes import build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import run
from finetune.training import RunFolder, Trainer
from tests.training.test_trainer import Rows, make, mirror_loss

ROWS = 4  # of a batch, over all processes


def train_small(folder: Path, rows: int) -> dict[str, Tensor]:
    """Everything the loop does, on a small model: its parameters and their average."""
    called: list[int] = []
    trainer = make(folder, batch_size=rows, accumulation=2, ema=True, trackers=["tensorboard"],
                   hooks=[(3, called.append)])  # fmt: skip
    trainer.run()
    assert called == ([3, 4] if PartialState(cpu=True).is_main_process else [])
    assert trainer.average is not None
    averages = {f"average of {name}": value for name, value in trainer.average.values.items()}
    return {**trainer.parameters, **averages}


def train_lora(folder: Path, rows: int, model: Path, pictures: Path) -> dict[str, Tensor]:
    """A LoRA with text encoders; the last layer of SDXL's first one gets no gradient.

    The pictures have several shapes, and in some step the processes have different numbers of batches.
    """
    backbone = load_backbone(ModelSection(name=str(model)))
    # 1e-4 is far above these gradients' rounding, which Adam would otherwise blow up to whole steps.
    adapter = LoRA(backbone, LoRASection(rank=2, text_encoder=True, dropout=0.1))
    source = PictureSource(scan_folder(pictures, "a cat"), backbone, DataSection(), 0, True, group=ROWS)
    source.prepare()
    halves = [[len(source.batches(range(n, n + 2))) for n in (4 * s, 4 * s + 2)] for s in range(3)]
    assert any(first != second for first, second in halves)
    training = TrainingSection(steps=3, batch_size=rows, precision="fp32")
    optimizer = OptimizerSection(lr=0.01, eps=1e-4)
    trainer = Trainer(adapter, Objective(backbone.scheduler, 0), source, training, optimizer,
                      RunFolder(folder))  # fmt: skip
    trainer.run()
    return dict(trainer.parameters)


def train_stream(folder: Path, rows: int, model: Path, shards: Path) -> dict[str, Tensor]:
    """A LoRA on a stream, whose blocks end in the middle of steps; stopped and resumed once."""
    values = {"data.instance_dir": shards, "model.name": str(model), "output.dir": folder}
    settings = [Setting(key, value, "here") for key, value in values.items()]
    changes = (f"training.batch_size={rows}", "training.steps=2", "adapter.rank=2", "optimizer.eps=1e-4",
               "optimizer.lr=0.01", "preview.every=0", "data.shuffle_buffer=3", "training.precision=fp32",
               "optimizer.warmup_steps=0", "optimizer.schedule=constant")  # fmt: skip
    for steps in ("training.steps=2", "training.steps=4"):
        recipe = build("lora", [*settings, *map(parse_set, (*changes, steps))])
        run(recipe, resume=steps.endswith("4"), tell=lambda line: None)
    if not PartialState(cpu=True).is_main_process:
        return {"none": torch.zeros(1)}
    return load_file(folder / "pytorch_lora_weights.safetensors")


def interrupted(folder: Path, rows: int) -> dict[str, Tensor]:
    """The last process alone hears a signal during the third step; then the run is resumed."""
    state = PartialState(cpu=True)

    def objective(model: nn.Module, batch: Rows) -> Tensor:
        if trainer.step == 2 and state.is_last_process:
            signal.raise_signal(signal.SIGTERM)
        return mirror_loss(model, batch)

    trainer = make(folder, batch_size=rows, steps=6, checkpoint_every=4, objective=objective)
    with pytest.raises(Interrupted, match="after step 3"):
        trainer.run()
    resumed = make(folder, batch_size=rows, steps=6, checkpoint_every=4)
    assert resumed.resume()
    assert resumed.step == 3
    resumed.run()
    return dict(resumed.parameters)


def not_finite(folder: Path, rows: int) -> None:
    """Sample 11 belongs to the last process; all must stop, and all must name it."""

    def objective(model: nn.Module, batch: Rows) -> Tensor:
        factor = torch.tensor([float("nan") if n == 11 else 1.0 for n in batch.numbers])
        return mirror_loss(model, batch) * factor

    with pytest.raises(NonFiniteLoss, match=r"step 3, on 11\.png"):
        make(folder, batch_size=rows, objective=objective).run()


def overflown(folder: Path, rows: int) -> None:
    """Weights that are no longer finite are seen when the first process is to save them; all must stop."""
    huge = {"lr": 10.0, "weight_decay": 1e38}
    with pytest.raises(NonFiniteLoss, match="weights became infinite or NaN at step 1"):
        make(folder, batch_size=rows, checkpoint_every=1, optimizer=huge).run()


def encoded_by_all(cache: Path) -> dict[str, Tensor]:
    """Rows of a cache on disk that all processes share, and how often this one encoded each."""
    count = torch.zeros(11)

    def encode(things: Sequence[int]) -> list[dict[str, Tensor]]:
        count[list(things)] += 1
        return [{"x": torch.full((3,), float(thing))} for thing in things]

    encoded = Encoded(encode, lambda thing: content_key(str(thing)), ContentCache(cache))
    heard: list[tuple[int, int]] = []
    encoded.prepare(chunked(range(4), 2))
    encoded.prepare(chunked(range(11), 2), lambda *at: heard.append(at))
    assert heard[0] == (4, 11) and heard[-1] == (11, 11)
    rows = torch.stack([row["x"] for row in encoded.rows(range(11))])
    return {"rows": rows, "count": count}


def main(out: Path, model: Path, pictures: Path, shards: Path) -> None:
    """Trains all of it as one of the processes that the environment tells of, or as the only one."""
    state = PartialState(cpu=True)
    rows = ROWS // state.num_processes
    own = out / str(state.process_index)  # by process, to see who writes
    results = {
        "small": train_small(own / "small", rows),
        "lora": train_lora(own / "lora", rows, model, pictures),
        "stream": train_stream(out / "stream", rows, model, shards),
        "interrupted": interrupted(out / "interrupted", rows),
        "encoded": encoded_by_all(out / "cache"),
    }
    not_finite(own / "not finite", rows)
    overflown(own / "overflown", rows)
    for name, tensors in results.items():
        copies = {key: value.detach().clone() for key, value in tensors.items()}
        save_file(copies, out / f"{name}-{state.process_index}.safetensors")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*map(Path, sys.argv[1:]))
