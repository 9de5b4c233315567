"""The settings of a run, each defined once (promise P5).

The YAML file, the command-line flags, `--help`, the JSON schema and the metadata of an exported
file are all made from these types. A field's description is its help text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AmountAboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SchedulerName = Literal["ddpm", "ddim", "pndm", "euler", "euler-a", "dpm++", "heun"]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ModelSection(Section):
    """The pretrained model that is taught."""

    name: str = Field(
        "auto",
        description="A diffusers folder, a Hub id, a single-file .safetensors checkpoint, or an "
        "alias: storybook, sd15, sd21, sdxl. `auto` is sd15 on a GPU and storybook without one.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub id.")
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = Field(
        "auto",
        description="What the UNet predicts; `auto` reads it from the model. Needed only for "
        "single-file checkpoints that do not say it.",
    )
    allow_pickle: bool = Field(
        False, description="Also load .ckpt, .bin and .pt weights (weights only, no code)."
    )


class DataSection(Section):
    """The pictures and what is said about them."""

    instance_dir: Path | None = Field(
        None, description="Folder of pictures of the subject; `NAME.txt` beside a picture is its caption."
    )
    instance_prompt: str | None = Field(
        None,
        description="Caption of the pictures that have no .txt file. Without it the folder's name "
        'is the trigger word: ./mycat trains on "a photo of mycat".',
    )
    resolution: Annotated[int, Field(ge=32, le=4096, multiple_of=8)] | None = Field(
        None, description="Side in pixels that pictures are resized and cropped to; the model's own if unset."
    )
    crop: Literal["center", "random"] = Field(
        "center", description="Which square of a picture that is not square is used."
    )
    flip: bool = Field(False, description="Mirror every second sample at random.")
    caption_dropout: Fraction = Field(
        0.0, description="Share of samples trained with an empty caption (for classifier-free guidance)."
    )
    preserve: list[str] = Field(
        [],
        description="Prompts that must go on meaning what they mean to the pretrained model, such as "
        '"a photo of a cat" while one cat is taught. Needs no pictures of them.',
    )
    preserve_share: Fraction = Field(
        0.5, description="Share of samples spent on `preserve`, if it names any prompts."
    )
    cache: bool = Field(
        True,
        description="Keep latents (and text embeddings of frozen encoders) instead of computing them anew.",
    )
    cache_dir: Path | None = Field(
        None, description="Folder for cached latents, found by content; in memory only if unset."
    )


class LoRASection(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Positive = Field(16, description="Rank of the update of each linear layer.")
    alpha: AmountAboveZero = Field(
        16.0, description="The update is scaled by alpha/rank (alpha/√rank with rslora)."
    )
    dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        0.0, description="Dropout on the input of the low-rank layers."
    )
    targets: Literal["attention", "attention+ff", "all"] | list[str] = Field(
        "attention",
        description="UNet layers that get an adapter: attention projections, also the feed-forward "
        "layers, all linear layers of the transformer blocks, or a list of module-name endings.",
    )
    conv_rank: Positive | None = Field(
        None, description="Also adapt the UNet's convolutions with this rank (LoCon)."
    )
    conv_alpha: AmountAboveZero | None = Field(
        None, description="Alpha of the convolutions; their rank if unset."
    )
    text_encoder: bool = Field(False, description="Also adapt the text encoder(s).")
    rslora: bool = Field(False, description="Rank-stabilised scaling alpha/√rank (arXiv:2312.03732).")
    dora: bool = Field(False, description="Weight-decomposed LoRA (arXiv:2402.09353).")


class FullSection(Section):
    """All weights of the UNet."""

    text_encoder: bool = Field(False, description="Also train the text encoder(s).")


class ObjectiveSection(Section):
    """What the loss is."""

    loss: Literal["l2"] = Field("l2", description="Distance between prediction and target.")


class OptimizerSection(Section):
    """How the weights move."""

    name: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="AdamW, or AdamW with 8-bit state from bitsandbytes."
    )
    lr: Rate = Field(1e-4, description="Learning rate of the UNet's parameters.")
    text_encoder_lr: Rate | None = Field(
        None, description="Learning rate of the text encoder's parameters; `lr` if unset."
    )
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.999), description="Adam's β1 and β2.")
    eps: AmountAboveZero = Field(1e-8, description="Adam's ε.")
    weight_decay: Amount = Field(0.01, description="Decoupled weight decay.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="How the learning rate goes on after the warm-up."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="Steps of linear warm-up.")


class TrainingSection(Section):
    """The loop."""

    steps: Positive = Field(800, description="Optimizer steps.")
    batch_size: Positive = Field(1, description="Pictures per forward pass and process.")
    accumulation: Positive = Field(1, description="Forward passes per optimizer step.")
    max_grad_norm: AmountAboveZero | None = Field(
        1.0, description="Gradients are clipped to this norm; null for no clipping."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Precision of the forward pass; trained parameters always stay fp32. "
        "`auto`: bf16 where the GPU has it, else fp16; fp32 on a CPU.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass: slower, far less memory."
    )
    ema: bool = Field(
        False, description="Keep an exponential moving average of the trained parameters and export it."
    )
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = Field(0.999, description="Its decay per step.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="Seed of every random draw.")
    checkpoint_every: Positive = Field(200, description="Steps between checkpoints.")
    keep_checkpoints: Positive = Field(2, description="How many of the newest checkpoints are kept.")
    log_every: Positive = Field(10, description="Steps between lines of metrics.jsonl.")
    tensorboard: bool = Field(False, description="Also write TensorBoard event files to logs/.")


class PreviewSection(Section):
    """Sample pictures during training, from the sampler that `finetune sample` uses."""

    every: Annotated[int, Field(ge=0)] = Field(200, description="Steps between previews; 0 for none.")
    prompts: list[str] | None = Field(None, description="Prompts; the training captions if unset.")
    negative: str = Field("", description="Negative prompt.")
    num: Positive = Field(4, description="Pictures in a preview when no prompts are given.")
    steps: Positive = Field(20, description="Sampling steps.")
    guidance: Amount = Field(5.0, description="Classifier-free guidance scale.")
    scheduler: SchedulerName = Field("dpm++", description="Sampler.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="Seed of the first picture.")


class OutputSection(Section):
    """Where the results go."""

    dir: Path | None = Field(None, description="Run folder; runs/NAME-RECIPE if unset.")
    name: str | None = Field(None, description="Name of the exported file; the folder's name if unset.")
