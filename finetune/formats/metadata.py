"""What an exported file says about how it was made (P7), under the names that common tools read.

`ss_*` are those of kohya's sd-scripts, which A1111, Forge, InvokeAI and model managers show;
`modelspec.*` are Stability's model metadata standard 1.0.0; `finetune.*` are ours. Everything is
text, and nothing depends on when or where the run took place: a resumed run writes the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from finetune.backbones import Backbone
from finetune.config.objective import HUBER_C, HUBER_SCHEDULE, PYRAMID_LEVELS
from finetune.config.optimizers import OPTIMIZERS
from finetune.config.weightings import WEIGHTINGS
from finetune.formats.families import FAMILY_NAMES
from finetune.version import __version__

LIBRARIES = ("torch", "diffusers", "transformers", "peft")
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}  # the standard has no name for others
PRECISIONS = {"fp32": "no"}  # what accelerate, and so kohya, calls it


@dataclass(frozen=True)
class DataFacts:
    """What the metadata says about the pictures.

    Attributes:
        name: The folder's last name, or several; never the whole path, which is nobody's business.
        digest: Content hash of pictures and captions.
        captions: The caption of each picture.
    """

    name: str
    digest: str
    captions: Sequence[str]


def run_metadata(
    recipe: Mapping[str, Any], backbone: Backbone, data: DataFacts, *, name: str, step: int
) -> dict[str, str]:
    """The metadata of a file that a run exports.

    The writers of `formats.kohya` and `formats.diffusers` add what belongs to their layout
    (`ss_network_*`, `lora_adapter_metadata`).

    Args:
        recipe: The resolved recipe as plain data: sections of settings.
        backbone: The model that was trained.
        data: What it was trained on.
        name: The exported file's name, without extension.
        step: Optimizer steps done.
    """
    resolution = recipe["data"]["resolution"] or backbone.native_size
    values = {
        "ss_output_name": name,
        "ss_sd_model_name": recipe["model"]["name"],
        "ss_resolution": f"({resolution}, {resolution})",
        **_training(recipe, step),
        **_data(recipe, data, step),
        **model_metadata(backbone, name, resolution),
        "modelspec.trigger_phrase": captions.pop() if len(captions := set(data.captions)) == 1 else None,
        "finetune.version": __version__,
        "finetune.versions": {library: version(library) for library in LIBRARIES},
        "finetune.step": step,
        "finetune.data_digest": data.digest,
        "finetune.recipe": recipe,
    }
    return as_text(values)


def model_metadata(backbone: Backbone, name: str, resolution: int) -> dict[str, Any]:
    """The model in kohya's names and Stability's, without the latter's date: it would differ between runs.

    Args:
        backbone: The model that a LoRA is for.
        name: The file's name, without extension.
        resolution: Side of the pictures that it is for, in pixels.
    """
    names, v_prediction = FAMILY_NAMES[backbone.family], backbone.prediction_type == "v_prediction"
    return {
        "ss_base_model_version": names.base_version[v_prediction],
        "ss_v2": names.base_version[0].startswith("sd_v2"),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{names.architecture[v_prediction]}/lora",
        "modelspec.implementation": names.implementation,
        "modelspec.title": name,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.prediction_type": PREDICTIONS.get(backbone.prediction_type),
    }


def _training(recipe: Mapping[str, Any], step: int) -> dict[str, Any]:
    optimizer, training, adapter = recipe["optimizer"], recipe["training"], recipe["adapter"]
    text_lr = optimizer["lr"] if optimizer["text_encoder_lr"] is None else optimizer["text_encoder_lr"]
    return {
        "ss_learning_rate": optimizer["lr"],
        "ss_unet_lr": optimizer["lr"],
        "ss_text_encoder_lr": text_lr if adapter.get("text_encoder") else None,
        "ss_optimizer": OPTIMIZERS[optimizer["name"]].cls.replace(":", "."),
        "ss_lr_scheduler": optimizer["schedule"],
        "ss_lr_warmup_steps": optimizer["warmup_steps"],
        "ss_max_train_steps": training["steps"],
        "ss_steps": step,
        "ss_seed": training["seed"],
        "ss_mixed_precision": PRECISIONS.get(training["precision"], training["precision"]),
        "ss_gradient_accumulation_steps": training["accumulation"],
        "ss_gradient_checkpointing": training["gradient_checkpointing"],
        "ss_max_grad_norm": training["max_grad_norm"],
        "ss_network_dropout": adapter.get("dropout"),
        **_objective(recipe["objective"]),
    }


def _objective(objective: Mapping[str, Any]) -> dict[str, Any]:
    """The loss in kohya's names; a setting that is off is left out."""
    huber, pyramid = objective["loss"] in ("huber", "smooth_l1"), objective["pyramid_noise"]
    return {
        "ss_loss_type": objective["loss"],
        "ss_huber_c": (objective["huber_c"] or HUBER_C) if huber else None,
        "ss_huber_schedule": (objective["huber_schedule"] or HUBER_SCHEDULE) if huber else None,
        **WEIGHTINGS[objective["weighting"]].kohya(objective),
        "ss_noise_offset": objective["offset_noise"] or None,
        "ss_multires_noise_discount": pyramid or None,
        "ss_multires_noise_iterations": (objective["pyramid_levels"] or PYRAMID_LEVELS) if pyramid else None,
        "ss_ip_noise_gamma": objective["input_perturbation"] or None,
        "ss_zero_terminal_snr": objective["zero_terminal_snr"] or None,
    }


def _data(recipe: Mapping[str, Any], data: DataFacts, step: int) -> dict[str, Any]:
    training, count = recipe["training"], len(data.captions)
    batch = training["batch_size"] * training["accumulation"]
    tags = Counter(tag.strip() for caption in data.captions for tag in caption.split(",") if tag.strip())
    return {
        "ss_num_train_images": count,
        "ss_total_batch_size": batch,
        "ss_num_epochs": -(-training["steps"] * batch // count),
        "ss_epoch": -(-step * batch // count),
        "ss_dataset_dirs": {data.name: {"n_repeats": 1, "img_count": count}},
        "ss_tag_frequency": {data.name: dict(sorted(tags.items()))},
        "ss_flip_aug": recipe["data"]["flip"],
        "ss_random_crop": recipe["data"]["crop"] == "random",
        "ss_color_aug": True if recipe["data"]["color_jitter"] else None,
        "ss_cache_latents": recipe["data"]["cache"],
        "ss_caption_dropout_rate": recipe["data"]["caption_dropout"],
    }


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as metadata holds them: text, JSON for lists and mappings; what is None is left out."""
    return {
        key: json.dumps(value, sort_keys=True) if isinstance(value, Mapping | list) else str(value)
        for key, value in sorted(values.items())
        if value is not None
    }
