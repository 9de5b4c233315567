"""The table of what can be trained; every row runs through the same tests on every family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from finetune.recipes import RECIPES, Recipe, build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import Run, assemble, prepare
from finetune.training import RunFolder
from tests.tiny import load_state


@dataclass(frozen=True)
class Case:
    """One way to train.

    Attributes:
        name: What it is called in test ids.
        kind: The recipe.
        changes: Its settings, as `--set` takes them.
        exact: Whether attaching it changes the prediction not even by rounding.
        plain: Whether plain diffusers can load what it exports.
    """

    name: str
    kind: str
    changes: tuple[str, ...] = ()
    exact: bool = True
    plain: bool = True

    @property
    def shared(self) -> tuple[str, ...]:
        """The settings of the run that all tests share."""
        whole = () if self.kind in ("lora", "distill", "embedding") else ("output.weights=fp32",)
        return ("training.ema=true", f"training.ema_decay={DECAY}", *whole)


DECAY = 0.15  # of the average, so small that it has a part of every step
TEXT = "adapter.text_encoder=true"
CASES = (
    Case("lora", "lora"),
    Case("lora-text", "lora", (TEXT,)),
    Case("rslora", "lora", ("adapter.rslora=true",)),
    Case("dora", "lora", ("adapter.dora=true",), exact=False),
    Case("locon", "lora", ("adapter.conv_rank=2", "adapter.targets=all")),
    Case("block-ranks", "lora", ("adapter.block_rank={mid_block: 0, up_blocks: 3}",)),
    Case("loha", "lora", ("adapter.algorithm=loha", "adapter.conv_rank=2"), plain=False),
    Case("lokr", "lora", ("adapter.algorithm=lokr", "adapter.conv_rank=2"), plain=False),
    Case("pivotal", "lora", ("adapter.placeholder=<mycat>", "data.instance_prompt=a photo of <mycat>")),
    Case("embedding", "embedding", ("adapter.vectors=2",)),
    Case("full", "full", exact=False),
    Case(
        "dreambooth-text",
        "dreambooth",
        (TEXT, "data.class_prompt=a cat", "data.num_class_images=2"),
        exact=False,
    ),
    Case("distill", "distill"),
    Case("controlnet", "controlnet", ("data.preprocess=grayscale",)),
    Case("control-lora", "controlnet", ("data.preprocess=grayscale", "adapter.rank=2")),
)
SMALL = (
    "data.caption_dropout=0",
    "training.steps=4",
    "training.batch_size=2",
    "training.checkpoint_every=1",
    "training.log_every=1",
    "training.keep_checkpoints=9",
    "training.accumulation=1",
    "training.ema=false",
    "training.gradient_checkpointing=false",
    "preview.every=0",
    "optimizer.name=adamw",
    "optimizer.warmup_steps=0",
    "optimizer.lr=0.01",
)


def recipe(case: Case, model: Path, pictures: Path, *changes: str) -> Recipe:
    """The recipe of a case on a tiny model."""
    own = [*SMALL, *case.changes, *changes]
    if case.kind in ("lora", "distill"):
        own.append("adapter.rank=2")
    settings = [
        Setting("model.name", str(model), "test"),
        Setting(f"data.{RECIPES[case.kind].folder_field}", pictures, "test"),
        *{setting.key: setting for setting in map(parse_set, own)}.values(),
    ]
    return build(case.kind, settings)


def put_together(case: Case, model: Path, pictures: Path, folder: Path, *changes: str) -> Run:
    """All parts of a run, as the command line puts them together."""
    this = assemble(recipe(case, model, pictures, *changes), RunFolder(folder))
    prepare(this)
    return this


@dataclass(frozen=True)
class Trained:
    """A finished run, and what there was before.

    Attributes:
        run: The run.
        before: What the adapter held when it was attached.
        after: What it has learned.
        base: Every other parameter of the model, with its value before.
    """

    run: Run
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    base: list[tuple[nn.Parameter, Tensor]]

    @classmethod
    def of(cls, this: Run) -> Trained:
        """Trains it."""
        ours = {id(parameter) for parameter in this.adapter.trained().values()}
        base = [
            (parameter, parameter.detach().clone())
            for module in (this.backbone.unet, this.backbone.vae, *this.backbone.text_encoders)
            for parameter in module.parameters()
            if id(parameter) not in ours
        ]
        before = this.adapter.state()
        this.trainer.run()
        return cls(this, before, this.adapter.state(), base)

    @contextmanager
    def untrained(self) -> Iterator[Run]:
        """Inside, the adapter holds what it did before; afterward, what it has learned."""
        load_state(self.run.adapter, self.before)
        yield self.run
        self.run.trainer.optimizer.zero_grad()
        load_state(self.run.adapter, self.after)
