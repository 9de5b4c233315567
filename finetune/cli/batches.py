"""What `finetune sample` samples, call by call: by lines of a file, along the axes of a plot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.cli.prompt_file import Line
from finetune.errors import ConfigError
from finetune.recipes.load import Setting, build_sampling
from finetune.sampling.axes import LORA, PROMPT, Axis, Point, points, replaced

if TYPE_CHECKING:
    from finetune.sampling import Sample, Sampler
    from finetune.sampling.sampled import SampledSection

Loras = Sequence[tuple[Path, float]]


@dataclass(frozen=True)
class Batch:
    """Prompts that share all settings.

    Attributes:
        prompts: What the pictures show.
        settings: How they are made.
        weights: Of the LoRAs, in their order.
    """

    prompts: tuple[str, ...]
    settings: SampledSection
    weights: tuple[float, ...]


def batches(
    lines: Sequence[Line], given: Sequence[Setting], axes: Sequence[Axis], loras: Loras
) -> list[list[Batch]]:
    """For each set of prompts with the same settings, a batch at each place of the plot, or one.

    Args:
        lines: The prompts.
        given: Settings for all of them.
        axes: Of a plot; none for none.
        loras: The LoRAs and their weights.

    Raises:
        ConfigError: A setting or a value of an axis is not valid.
    """
    plain = [line for line in lines if not line.settings]
    groups = [plain] if plain else []
    groups += [[line] for line in lines if line.settings]
    for axis in axes:
        _check(axis, loras)
    return [[_batch(group, given, axes, point, loras) for point in points(axes)] for group in groups]


def _batch(
    group: Sequence[Line], given: Sequence[Setting], axes: Sequence[Axis], point: Point, loras: Loras
) -> Batch:
    varied = [
        Setting(f"sampling.{key}", value, f"--grid {key}={value}")
        for key, value in point
        if key != PROMPT and not key.startswith(LORA)
    ]
    _, settings = build_sampling([*given, *group[0].settings, *varied])
    weights = [weight for _, weight in loras]
    for key, value in point:
        if key.startswith(LORA):
            chosen = [_named(key, path) for path, _ in loras]
            weights = [float(value) if c else w for c, w in zip(chosen, weights, strict=True)]
    return Batch(tuple(replaced(line.prompt, axes, point) for line in group), settings, tuple(weights))


def _named(key: str, path: Path) -> bool:
    name = key.removeprefix(LORA)
    return name in ("weight", path.stem, path.name)


def _check(axis: Axis, loras: Loras) -> None:
    if not axis.key.startswith(LORA):
        return
    where = f"--grid {axis.key}={','.join(axis.values)}"
    if not any(_named(axis.key, path) for path, _ in loras):
        known = ", ".join(f"{LORA}{path.stem}" for path, _ in loras)
        raise ConfigError(
            f"{axis.key} is the weight of no LoRA.",
            where=where,
            fix=f"Use lora.weight or {known}." if known else "Give a LoRA with --lora.",
        )
    for value in axis.values:
        try:
            fine = math.isfinite(float(value))
        except ValueError:
            fine = False
        if not fine:
            raise ConfigError(f"{value!r} is not a weight.", where=where, fix="Give numbers, such as 0.8.")


def sample_all(
    sampler: Sampler, groups: Sequence[Sequence[Batch]], progress: Callable[[int, int], None], **inputs: Any
) -> list[list[list[Sample]]]:
    """The samples of each batch.

    Args:
        sampler: With the LoRAs; where weights vary, these are beside the model's weights.
        groups: From `batches`.
        progress: Called with the number of steps done and their total.
        inputs: What all batches share of a sampler's call, such as `init`.
    """
    count, done, made = sum(map(len, groups)), 0, []
    for group in groups:
        rows = []
        for batch in group:
            if varies(groups):
                sampler.set_lora_weights(batch.weights)
            choices = batch.settings.model_dump(exclude_unset=True, exclude={"precision", "filmstrip"})

            def report(steps: int, total: int, before: int = done) -> None:
                progress(before * total + steps, count * total)

            rows.append(
                sampler(
                    list(batch.prompts),
                    progress=report,
                    frames=batch.settings.filmstrip or 0,
                    **inputs,
                    **choices,
                )
            )
            done += 1
        made.append(rows)
    return made


def varies(groups: Sequence[Sequence[Batch]]) -> bool:
    """Whether the weights of LoRAs differ between the batches, by block or over the steps."""
    flat = [batch for group in groups for batch in group]
    return len({batch.weights for batch in flat}) > 1 or any(batch.settings.changes_loras for batch in flat)
