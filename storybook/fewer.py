"""Measures what few steps cost, without and with an LCM-LoRA: `python -m storybook.fewer --lora RUN`.

By the oracle: samples of held-out combinations that show all that their prompt says and, with `--subject`,
those that show the subject of a second LoRA.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.backbones.quiet import quiet
from finetune.sampling.grid import grid
from finetune.sampling.sampler import Sampler
from finetune.sampling.settings import Choices
from storybook.captions import prompt
from storybook.gates import STREAM, USUAL, check_lora, read
from storybook.oracle import Oracle, agrees
from storybook.world import sample_spec

_SHOWN = 8  # pictures of each way
_LCM = Choices(guidance=1.0, scheduler="lcm")
WAYS: dict[str, tuple[bool, Choices]] = {"25 steps": (False, USUAL)}
for _steps in (4, 2, 1):
    WAYS[f"{_steps} of the usual sampler"] = (False, {**USUAL, "steps": _steps})
    WAYS[f"{_steps} of lcm"] = (False, {**_LCM, "steps": _steps})
    WAYS[f"{_steps} of lcm with the LoRA"] = (True, {**_LCM, "steps": _steps})
"""Names, whether the LCM-LoRA is used, and how the samples are made."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lora", required=True, help="run folder or file of the LCM-LoRA")
    parser.add_argument("--subject", help="run folder or file of a LoRA of the subject")
    parser.add_argument("--count", type=int, default=200, help="samples (default: %(default)s)")
    parser.add_argument("--pictures", type=Path, help="where to write a sheet with a row for each way")
    options = parser.parse_args(arguments)
    oracle, rows, labels = Oracle.load(), [], []
    rng = np.random.default_rng([STREAM, 2])
    specs = [sample_spec(rng, held_out=True) for _ in range(options.count)]
    prompts = [prompt(spec) for spec in specs]
    for name, (distilled, how) in WAYS.items():
        sampler = _sampler([options.lora] if distilled else [])
        readings, images = read(sampler, oracle, prompts, how=how)
        right = [agrees(r, s)["all"] for r, s in zip(readings, specs, strict=True)]
        said = f"all that the prompt says {np.mean(right):.1%}"
        rows += images[:_SHOWN]
        labels += [name, *[""] * (_SHOWN - 1)]
        if options.subject:
            sampler = _sampler([options.subject, *([options.lora] if distilled else [])])
            shown = check_lora(sampler, oracle, count=options.count // 2, how=how)
            said += f", the subject {shown['subject']:.1%}, its scene and hat {shown['scene and hat']:.1%}"
        print(f"{name}: {said}", flush=True)
    if options.pictures:
        grid(rows, _SHOWN, labels).save(options.pictures)
    return 0


def _sampler(loras: list[str]) -> Sampler:
    with quiet():
        return Sampler.load("storybook", loras=loras)


if __name__ == "__main__":
    sys.exit(main())
