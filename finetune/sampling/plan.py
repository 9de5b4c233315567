"""From what a sampling call was given to the pictures to make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from PIL import Image

from finetune.backbones import Backbone
from finetune.errors import ConfigError
from finetune.sampling.between import Toward
from finetune.sampling.canvas import Canvas, Original, originals
from finetune.sampling.control import Control, ControlImages, control_rows
from finetune.sampling.pictures import Opened, Picture, Record, size_of
from finetune.sampling.settings import Choices, SamplingSection, sampling_section

_STRENGTH = 0.6


@dataclass(frozen=True)
class Job:
    """One picture to make.

    Attributes:
        prompt: What it shows.
        seed: Seed of its own noise.
        controls: Its control picture for each ControlNet, RGB.
        canvas: The picture it is made from, at the size that is sampled; None for noise alone.
        toward: The other end, if it is between two pictures.
    """

    prompt: str
    seed: int
    controls: tuple[Image.Image, ...] = ()
    canvas: Canvas | None = None
    toward: Toward | None = None

    @property
    def record(self) -> Record:
        """What is recorded of the pictures that were given for it, and of the other end."""
        controls = [Opened(picture).record(f"control {n}") for n, picture in enumerate(self.controls)]
        toward: Record = () if self.toward is None else (("toward", asdict(self.toward)),)
        return sum(controls, (self.canvas.record if self.canvas else ()) + toward)


@dataclass(frozen=True)
class Given:
    """What a sampling call was given besides settings.

    Attributes:
        prompts: What the pictures show.
        seed: Of the first picture of each prompt, or one such seed for each prompt.
        controls: Control pictures.
        init: The picture to begin with, for all prompts or one for each.
        mask: Where it is repainted, likewise.
    """

    prompts: Sequence[str]
    seed: int | Sequence[int]
    controls: ControlImages | None = None
    init: Picture | Sequence[Picture] | None = None
    mask: Picture | Sequence[Picture] | None = None

    @property
    def seeds(self) -> list[int]:
        """The first seed of each prompt.

        Raises:
            ConfigError: There are not as many seeds as prompts.
        """
        if not isinstance(self.seed, Sequence):
            return [self.seed] * len(self.prompts)
        if len(self.seed) != len(self.prompts):
            raise ConfigError(
                f"{len(self.prompts)} prompts were given but {len(self.seed)} seeds.",
                where="seed",
                fix="Give one seed, or one for each prompt.",
            )
        return list(self.seed)


def plan(
    backbone: Backbone, controls: Sequence[Control], given: Given, choices: Choices
) -> tuple[list[Job], SamplingSection]:
    """The pictures to make, `num` for each prompt, and the settings with everything filled in.

    Raises:
        ConfigError: A setting is not valid, or pictures are missing, too many or of another shape.
        DataError: A picture cannot be read.
    """
    seeds, count = given.seeds, len(given.prompts)
    settings, *_ = [sampling_section(**choices, seed=seed) for seed in dict.fromkeys(seeds or [0])]
    for fault in settings.faults():
        raise ConfigError(fault.what, where=fault.where, fix=fault.fix)
    _check_text(backbone, given.prompts, settings)
    settings.check_ends(count)
    rows = control_rows(given.controls, controls, count)
    begun = originals(given.init, given.mask, settings.outpaint, count)
    settings = _filled_in(settings, begun, rows, backbone.native_size)
    assert settings.size is not None
    factor = backbone.latent_factor
    canvases = [original.at(settings.size, factor) if original else None for original in begun]
    if settings.between is not None:
        ends = given.prompts[0], given.prompts[-1], seeds[0]
        return [
            replace(job, controls=rows[0], canvas=canvases[0]) for job in _strip(*ends, settings)
        ], settings
    jobs = [
        Job(prompt, seed + k, row, canvas)
        for prompt, seed, row, canvas in zip(given.prompts, seeds, rows, canvases, strict=True)
        for k in range(settings.num)
    ]
    return jobs, settings


def _filled_in(
    settings: SamplingSection,
    begun: Sequence[Original | None],
    rows: Sequence[Sequence[Image.Image]],
    native: int,
) -> SamplingSection:
    """The size is that of the first picture given, if none is set; the strength that of the mode."""
    first = next(iter(begun), None)
    pictures = [picture for row in rows for picture in row]
    own = size_of(pictures[0], native) if pictures else (native, native)
    size = settings.size or (first.size(native) if first else own)
    if first is None:
        if settings.strength is not None:
            raise ConfigError(
                "`strength` has no effect without an initial picture.",
                where="strength",
                fix="Give a picture to begin with (--init PICTURE), or leave it out.",
            )
        if settings.hires is not None:
            _check_steps(settings.steps, settings.hires_strength, "hires_strength")
        return settings.model_copy(update={"size": size})
    if settings.hires is not None:
        raise ConfigError(
            "`hires` enlarges pictures from noise, and there is an initial picture.",
            where="hires",
            fix="Give a larger size instead, such as --size 1024, and a strength.",
        )
    strength = settings.strength or (1.0 if first.repaints else _STRENGTH)
    _check_steps(settings.steps, strength, "strength")
    return settings.model_copy(update={"size": size, "strength": strength})


def _strip(first: str, last: str, seed: int, settings: SamplingSection) -> list[Job]:
    """The pictures of a strip; both ends are what they are without one."""
    count, to_seed = settings.between or 2, seed if settings.to_seed is None else settings.to_seed
    inside = [Job(first, seed, toward=Toward(last, to_seed, k / (count - 1))) for k in range(1, count - 1)]
    return [Job(first, seed), *inside, Job(last, to_seed)]


def _check_steps(steps: int, strength: float, where: str) -> None:
    if int(steps * strength) < 1:
        raise ConfigError(
            f"A strength of {strength:g} leaves none of {steps} steps.",
            where=where,
            fix=f"Use at least {math.ceil(1 / strength)} steps, or a larger strength.",
        )


def _check_text(backbone: Backbone, prompts: Sequence[str], settings: SamplingSection) -> None:
    layers = min(encoder.config.num_hidden_layers for encoder in backbone.text_encoders)
    if settings.clip_skip > layers:
        raise ConfigError(
            f"`clip_skip` cannot be {settings.clip_skip}: the text encoder has {layers} layers.",
            where="clip_skip",
            fix="Use 1 or 2.",
        )
    named = next((prompt for prompt in prompts if "<lora:" in prompt), None)
    if named is not None and settings.emphasis == "a1111":
        raise ConfigError(
            "A prompt names a LoRA, which a loaded model cannot take from there.",
            where=named,
            fix="Load it with the model: Sampler.load(model, loras=[…]).",
        )
