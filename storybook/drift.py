"""How training on a subject changed its class: `python -m storybook.drift MODEL...`.

The bundled model draws "a cat" in every color. A model that overfit to one cat draws only that one.
The drift is how far the colors of a trained model's cats are from those of the untrained model's.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.backbones.quiet import quiet
from finetune.sampling.grid import grid
from finetune.sampling.sampler import Sampler
from storybook.gates import check_lora, read, show
from storybook.oracle import Oracle, Reading
from storybook.world import COLOURS

PROMPT, COUNT = "a cat", 200


@dataclass(frozen=True)
class ClassSpread:
    """What samples of the bare class show.

    Attributes:
        colours: Share of each color of the world.
        animal: Share that shows the class at all.
        subject: Share that shows the subject.
    """

    colours: dict[str, float]
    animal: float
    subject: float


def spread(readings: Sequence[Reading], animal: str = "cat") -> ClassSpread:
    """Sums up what the oracle saw in samples of a class."""
    count = len(readings)
    found = Counter(reading.colour for reading in readings)
    return ClassSpread(
        {colour: found[colour] / count for colour in COLOURS},
        sum(reading.animal == animal for reading in readings) / count,
        sum(reading.is_subject for reading in readings) / count,
    )


def total_variation(one: dict[str, float], other: dict[str, float]) -> float:
    """Half the sum of absolute differences of two distributions: 0 for the same, 1 for disjoint ones."""
    return sum(abs(one.get(key, 0) - other.get(key, 0)) for key in {*one, *other}) / 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints how each model shows the subject, and its drift."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="trained models, e.g. runs/mycat-dreambooth/model")
    parser.add_argument("--base", default="storybook", help="the model they were trained from")
    parser.add_argument("--trigger", default="mycat", help="the subject's name in prompts")
    parser.add_argument("--count", type=int, default=COUNT, help="samples of the class")
    parser.add_argument("--pictures", type=Path, help="folder to write grids of samples to")
    options = parser.parse_args(arguments)
    oracle = Oracle.load()
    base: ClassSpread | None = None
    for name in [options.base, *options.models]:
        with quiet():
            sampler = Sampler.load(name, precision="bf16")
        readings, images = read(sampler, oracle, [PROMPT] * options.count)
        now = spread(readings)
        if base is None:
            base = now
        figures = {
            f"a cat on '{PROMPT}'": now.animal,
            f"subject on '{PROMPT}'": now.subject,
            "drift of the class's colors": total_variation(base.colours, now.colours),
        }
        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            stem = name.strip("/").replace("/", "-")
            grid(images[:16], columns=8).save(options.pictures / f"{stem}.png")
        if name != options.base:
            figures = check_lora(sampler, oracle, options.trigger) | figures
        show(name, figures)
        print("  colors " + ", ".join(f"{c} {share:.0%}" for c, share in now.colours.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
