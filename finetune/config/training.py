"""The training loop, its previews and where the results go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from finetune.config.attention import ATTENTIONS
from finetune.config.base import Amount, AmountAboveZero, Fault, Need, Positive, Section, name_fault
from finetune.config.samplers import SchedulerName
from finetune.config.trackers import TRACKERS


class TrainingSection(Section):
    """The training loop."""

    needs = (Need("training.tf32", "precision", ("fp32",)),)

    steps: Positive = Field(800, description="Optimizer steps.")
    epochs: Positive | None = Field(
        None, description="Instead of `steps`: how many times each picture is shown."
    )
    batch_size: Positive = Field(1, description="Pictures per forward pass and process.")
    accumulation: Positive = Field(1, description="Gradient accumulation: forward passes per optimizer step.")
    max_grad_norm: AmountAboveZero | None = Field(
        1.0, description="Gradients are clipped to this norm; null for no clipping."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Precision of the forward pass; trained parameters always stay fp32. "
        "`auto`: bf16 where the GPU has it, else fp16; on a CPU bf16 for large models if it computes in "
        "bf16, else fp32.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: slower, far less memory."
    )
    packed_weights: bool = Field(
        True,
        description="On a CPU, keep frozen weights in the order in which they are multiplied: faster, "
        "more memory.",
    )
    fused_updates: bool = Field(
        True,
        description="Compute a linear layer and its LoRA at once: faster, less memory. Not done with DoRA, "
        "dropout or `compile`.",
    )
    attention: Annotated[str, ATTENTIONS] = Field(
        "auto",
        description="How the UNet computes attention: `sdpa` is PyTorch's own, `products` the same with a "
        "faster backward pass for bf16 on a CPU, `flash` PyTorch's FlashAttention alone. `auto`: `products` "
        "on a CPU in bf16, `xformers` if it is installed and faster on this GPU, else `sdpa`.",
    )
    compile: bool = Field(
        False,
        description="Compile the UNet's transformer blocks: a first step of minutes, faster ones later.",
    )
    tf32: bool = Field(
        False,
        description="With precision fp32 on an NVIDIA GPU, round the inputs of products to ten bits: several "
        "times as fast.",
    )
    ema: bool = Field(
        False, description="Keep an exponential moving average of the trained parameters and export it."
    )
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = Field(0.999, description="EMA decay per step.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="Seed of every random draw.")
    checkpoint_every: Positive = Field(200, description="Steps between checkpoints.")
    keep_checkpoints: Positive = Field(2, description="How many of the newest checkpoints are kept.")
    log_every: Positive = Field(10, description="Steps between lines of metrics.jsonl.")
    trackers: tuple[Annotated[str, TRACKERS], ...] = Field(
        (),
        description="Programs that get curves and previews too, each in a folder of its own in logs/: "
        "`tensorboard`, `wandb` (offline unless you are logged in).",
    )
    report: bool = Field(True, description="Write report.html, the run on one page, at the end.")

    @field_validator("trackers", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`, and a length that is given twice."""
        yield from super().faults()
        if self.epochs is not None and "steps" in self.model_fields_set:
            yield Fault(
                "The length of the training is given twice: in steps and in epochs.",
                "training.epochs",
                "Remove training.steps or training.epochs.",
            )

    @property
    def fuses(self) -> bool:
        """Whether layers and their LoRAs are computed at once; a compiler does more than that."""
        return self.fused_updates and not self.compile

    def samples_per_step(self, processes: int) -> int:
        """Samples that an optimizer step sees, over all processes."""
        return self.batch_size * self.accumulation * processes


class PreviewSection(Section):
    """Sample pictures during training, from the sampler that `finetune sample` uses."""

    every: Annotated[int, Field(ge=0)] = Field(200, description="Steps between previews; 0 for none.")
    prompts: list[str] | None = Field(None, description="Prompts; the training captions if unset.")
    negative: str = Field("", description="Negative prompt.")
    num: Positive = Field(1, description="Pictures in a preview when no prompts are given.")
    steps: Positive = Field(15, description="Sampling steps.")
    guidance: Amount = Field(5.0, description="Classifier-free guidance scale.")
    scheduler: SchedulerName = Field("dpm++", description="Sampler.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="Seed of the first picture.")


class OutputSection(Section):
    """Where the results go."""

    dir: Path | None = Field(None, description="Run folder; runs/NAME-RECIPE if unset.")
    name: str | None = Field(None, description="Name of the exported file; the folder's name if unset.")

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        if self.name is not None and (fault := name_fault(self.name)):
            yield fault


class WeightsOutputSection(OutputSection):
    """Where the results go, and in which precision they are written."""

    weights: Literal["fp16", "bf16", "fp32"] = Field("fp16", description="Precision of the written weights.")


class ModelOutputSection(WeightsOutputSection):
    """Where the results go, and in which form a whole model is written."""

    single_file: bool = Field(
        False, description="Also write one .safetensors checkpoint, as A1111, Forge and ComfyUI load it."
    )
