"""Broken and odd weight files and model folders: a finite result, or a message with where and fix."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from finetune.adapters import ControlNet
from finetune.backbones import Backbone, load_backbone
from finetune.backbones.checkpoint import family_of_checkpoint, read_header
from finetune.backbones.controlnet import read_branch
from finetune.backbones.original import original_state
from finetune.backbones.single_file import convert, settle_prediction
from finetune.config import ControlNetSection, ModelSection
from finetune.errors import UserError
from finetune.formats import read_embedding, read_lora, write_controlnet
from finetune.formats.diffusers import diffusers_tensors
from finetune.formats.kohya import kohya_tensors
from tests.campaigns.campaign import Campaign, Verdict, time_limit
from tests.campaigns.child import finetune
from tests.campaigns.spoil import Tensors, broken, damaged, flipped, wrong_json
from tests.formats.conftest import trained_lora
from tests.tiny import tiny_backbone_folder

SECONDS = 60  # after which an attack counts as hanging
SAMPLED = 25  # every 25th attack goes through a whole `finetune sample`


class Attacks(Campaign):
    """Each attack reads a damaged LoRA, embedding, ControlNet, checkpoint or model folder."""

    name: ClassVar[str] = "weights"
    small: ClassVar[int] = 25
    large: ClassVar[int] = 500

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._folder = tiny_backbone_folder("sd1", place)
        self._model = load_backbone(ModelSection(name=str(self._folder)))
        weights = {}
        for kind, settings in {
            "lora": {"text_encoder": True},
            "dora": {"dora": True, "conv_rank": 2},
        }.items():
            adapter = trained_lora(self._model, **settings)
            weights[kind] = adapter.weights()
            adapter.detach()
        plain = diffusers_tensors(weights["lora"])
        self._loras: dict[str, Tensors] = {
            "kohya": kohya_tensors(weights["lora"], self._model),
            "kohya DoRA": kohya_tensors(weights["dora"], self._model),
            "diffusers": plain,
            "PEFT": {
                f"base_model.model.{n.removeprefix('unet.')}": t for n, t in plain.items() if n[0] == "u"
            },
        }
        self._checkpoint = {n: weight.made() for n, weight in original_state(self._model).items()}
        self._control = place / "control"
        self._control.mkdir()
        write_controlnet(self._control, ControlNet(self._model, ControlNetSection()), {})
        self._model = load_backbone(ModelSection(name=str(self._folder)))
        self._kinds: dict[str, Callable[[random.Random], tuple[str, Callable[[], Any]]]] = {
            "LoRA": self._lora,
            "embedding": self._embedding,
            "ControlNet": self._controlnet,
            "checkpoint": self._single_file,
            "model folder": self._model_folder,
        }

    def attack(self, number: int) -> Verdict:
        """Damages a file and reads it."""
        draw = random.Random(number)
        if number % SAMPLED == SAMPLED - 1:
            return self._sample(draw)
        kind = draw.choice(["LoRA", *self._kinds])  # LoRAs are the files most often downloaded from strangers
        how, read = self._kinds[kind](draw)
        try:
            with time_limit(SECONDS):
                read()
        except UserError as error:
            return Verdict(
                f"{kind}: {how}", None if error.where and error.fix else f"where or fix is missing: {error}"
            )
        except Exception as error:
            return Verdict(f"{kind}: {how}", f"{type(error).__name__}: {error}")
        return Verdict(f"{kind}: {how}")

    def _spoiled(self, tensors: Tensors, draw: random.Random, name: str) -> tuple[str, Path]:
        how, data = damaged(tensors, draw) if draw.random() < 0.7 else ("bytes", save(tensors))
        if how == "bytes":
            data = broken(data, draw) if draw.random() < 0.9 else flipped(data, draw)
        file = self.place / f"{name}.safetensors"
        file.write_bytes(data)
        return how.replace("_", " "), file

    def _lora(self, draw: random.Random) -> tuple[str, Callable[[], Any]]:
        how, file = self._spoiled(self._loras[draw.choice(sorted(self._loras))], draw, "lora")

        def read() -> None:
            for layer in read_lora(file, self._model).layers.values():
                _finite(layer.delta())

        return how, read

    def _embedding(self, draw: random.Random) -> tuple[str, Callable[[], Any]]:
        key = draw.choice(("emb_params", "<cat>", "clip_l"))
        how, file = self._spoiled({key: torch.randn(2, 16)}, draw, "embedding")

        def read() -> None:
            for rows in read_embedding(file, self._model).rows:
                _finite(rows)

        return how, read

    def _controlnet(self, draw: random.Random) -> tuple[str, Callable[[], Any]]:
        how, folder = self._spoiled_folder(self._control, draw)

        def read() -> None:
            for weight in read_branch(folder, self._model).state_dict().values():
                _finite(weight)

        return how, read

    def _single_file(self, draw: random.Random) -> tuple[str, Callable[[], Any]]:
        how, file = self._spoiled(self._checkpoint, draw, "checkpoint")

        def read() -> None:
            section = ModelSection(name=str(file))
            header = read_header(file, allow_pickle=False)
            family = family_of_checkpoint(header, str(file))
            # The real loader would build the published models' structures, which are too large here.
            backbone = convert(file, family, self._folder, self._model.tokenizers, section, header)
            settle_prediction(backbone, file, header, section)
            _works(backbone)

        return how, read

    def _model_folder(self, draw: random.Random) -> tuple[str, Callable[[], Any]]:
        how, folder = self._spoiled_folder(self._folder, draw)
        return how, lambda: _works(load_backbone(ModelSection(name=str(folder))))

    def _spoiled_folder(self, whole: Path, draw: random.Random) -> tuple[str, Path]:
        """A copy of a folder with one file damaged."""
        folder = self.place / "spoiled"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        weights = sorted(folder.rglob("*.safetensors"))
        if draw.random() < 0.4:
            file = draw.choice(weights)
            how, made = self._spoiled(load_file(file), draw, "part")
            shutil.copy(made, file)
            return how, folder
        file = draw.choice(sorted(f for f in folder.rglob("*") if f.is_file() and f not in weights))
        spoil = wrong_json if file.suffix == ".json" else flipped
        file.write_bytes(spoil(file.read_bytes(), draw))
        return file.name, folder

    def _sample(self, draw: random.Random) -> Verdict:
        """Runs the whole program with a damaged LoRA."""
        _, file = self._spoiled(self._loras[draw.choice(sorted(self._loras))], draw, "lora")
        command = ("sample", "a cat", "--model", self._folder, "--lora", file, "--steps", "1")
        folder = self.place / "sampled"
        folder.mkdir(exist_ok=True)
        ended = finetune(*command, folder=folder)
        # A well-formed file may still be too strong for any picture; the program says so.
        allowed = (0, 2, 1) if "is not finite" in ended.err else (0, 2)
        return Verdict("whole program", ended.unexpected(*allowed))


def _finite(tensor: Tensor) -> None:
    assert bool(torch.isfinite(tensor).all()), "a result that is not finite"


@torch.no_grad()
def _works(backbone: Backbone) -> None:
    """Checks that a loaded model has finite weights and predicts something.

    The prediction of weights that are merely far too large may not be finite; the sampler reports that.
    """
    side = backbone.native_size // backbone.latent_factor
    noise = torch.randn(1, backbone.latent_channels, side, side, generator=torch.Generator().manual_seed(0))
    backbone.predict(noise, torch.tensor([500]), backbone.conditioning(["a cat"]))
    backbone.decode(noise)
    for module in (backbone.unet, backbone.vae, *backbone.text_encoders):
        for weight in module.state_dict().values():
            _finite(weight)
