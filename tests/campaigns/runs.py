"""Small runs of every recipe for the campaigns, and what must be the same in equal runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml

from finetune.recipes import RECIPES
from tests.campaigns.child import Ended, finetune
from tests.conftest import draw_pictures
from tests.tiny import tiny_backbone_folder

COMMON = {
    "training.steps": 6,
    "training.checkpoint_every": 2,
    "training.log_every": 1,
    "preview.every": 3,
    "preview.num": 1,
    "preview.steps": 2,
    "optimizer.warmup_steps": 0,
}
KINDS = {
    "lora": {"adapter.rank": 2, "adapter.text_encoder": True, "data.cache_dir": "cache"},
    "dreambooth": {
        "data.class_prompt": "a cat",
        "data.num_class_images": 2,
        "training.ema": True,
        "output.single_file": True,
        "optimizer.name": "adamw",
    },
    "full": {"adapter.text_encoder": True, "training.ema": True, "optimizer.name": "adamw"},
    "controlnet": {"data.preprocess": "grayscale", "adapter.rank": 2},
    "embedding": {"adapter.vectors": 2},
    "pretrain": {
        "data.resolution": 32,
        "architecture.autoencoder_channels": [16, 32],
        "architecture.unet_channels": [16, 32],
        "architecture.text_width": 32,
        "architecture.text_layers": 1,
        "autoencoder.steps": 4,
        "autoencoder.batch_size": 2,
        "training.batch_size": 2,
        "training.ema": True,
    },
}
NAMES = tuple(KINDS)


class Runs:
    """Recipes for a tiny model, and an undisturbed run of each.

    Args:
        place: Folder for model, pictures, recipes and undisturbed runs.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._model = tiny_backbone_folder("sd1", place)
        self._pictures = draw_pictures(place)
        self._straight: dict[str, tuple[dict[str, str], float]] = {}

    def recipe(self, kind: str) -> Path:
        """The recipe's file."""
        file = self._place / f"{kind}.yaml"
        if not file.exists():
            sections: dict[str, dict[str, object]] = {}
            settings = {
                "model.name": str(self._model),
                f"data.{RECIPES[kind].folder_field}": str(self._pictures),
            }
            every = {**settings, **COMMON, **KINDS[kind]}
            for key, value in every.items():
                if key in RECIPES[kind].unused:
                    continue
                section, _, name = key.partition(".")
                sections.setdefault(section, {})[name] = value
            file.write_text(yaml.safe_dump({"kind": kind, **sections}))
        return file

    def straight(self, kind: str) -> tuple[dict[str, str], float]:
        """What an undisturbed run writes (see `tree`), and how many seconds it takes."""
        if kind not in self._straight:
            folder = self._place / f"straight-{kind}"
            folder.mkdir()
            ended = self.train(kind, folder)
            assert ended.code == 0, ended.err
            self._straight[kind] = tree(folder), ended.seconds
        return self._straight[kind]

    def train(self, kind: str, folder: Path, *flags: str) -> Ended:
        """Runs the recipe in `folder` to its end."""
        return finetune("run", self.recipe(kind), *flags, folder=folder)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, with a hash of what must be the same in equal runs."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)): _content(path) for path in files}


def _content(path: Path) -> str:
    data = path.read_bytes()
    if path.name == "report.html":  # it tells the speed, the time and the folder
        data = b""
    if path.name == "metrics.jsonl":  # speed varies between runs
        lines = [json.loads(line) for line in data.splitlines()]
        data = json.dumps([{**line, "images_per_second": 0} for line in lines]).encode()
    return hashlib.sha256(data).hexdigest()


def difference(wanted: dict[str, str], found: dict[str, str]) -> str | None:
    """The files that are missing, unexpected or different; None if there are none."""
    faults = [f"missing: {name}" for name in wanted if name not in found]
    faults += [f"unexpected: {name}" for name in found if name not in wanted]
    faults += [f"different: {name}" for name in wanted if found.get(name, wanted[name]) != wanted[name]]
    return "; ".join(faults) or None
