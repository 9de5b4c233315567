"""The settings that people change daily; the command line and the page have them in front."""

from __future__ import annotations

from finetune.recipes.fields import setting_fields
from finetune.recipes.load import RECIPES

FLAGS = {
    "--instance-dir": "data.instance_dir",
    "--instance-prompt": "data.instance_prompt",
    "--class-prompt": "data.class_prompt",
    "--data-dir": "data.data_dir",
    "--conditioning-dir": "data.conditioning_dir",
    "--preprocess": "data.preprocess",
    "--model": "model.name",
    "--vae": "model.vae",
    "--output-dir": "output.dir",
    "--steps": "training.steps",
    "--batch-size": "training.batch_size",
    "--resolution": "data.resolution",
    "--lr": "optimizer.lr",
    "--rank": "adapter.rank",
    "--seed": "training.seed",
    "--precision": "training.precision",
    "--single-file": "output.single_file",
}
"""The setting that each flag of the training commands stands for; everything else is reached with `--set`."""


def daily(kind: str) -> dict[str, str]:
    """Flag and dotted key of the settings that a kind of recipe has in front.

    Args:
        kind: A name in `RECIPES`.
    """
    fields, unused = setting_fields(RECIPES[kind]), RECIPES[kind].unused
    return {flag: key for flag, key in FLAGS.items() if key in fields and key not in unused}
