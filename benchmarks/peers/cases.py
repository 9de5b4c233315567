"""What is compared: the commands of each trainer, with equal settings.

All: bf16, a constant learning rate, no gradient checkpointing, no previews. LoRA: rank and alpha 4
on the UNet's attention, AdamW. ControlNet: AdamW. DreamBooth: 8-bit AdamW, as diffusers' script offers it,
and this program also with AdamW. Where all weights are trained, this program also in bf16 (`LEAN`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import OUT, ROOT, Program, ours
from benchmarks.peers.place import Place
from benchmarks.peers.setup import CAPTION

LAUNCH = str(Path(__file__).with_name("launch.py"))
OURS, DIFFUSERS, KOHYA = "finetune", "diffusers", "kohya"
PRECISION = "bf16"
_LONG = "1000"  # steps: more than are ever measured, so that no run comes to its end
LEAN = (
    *("optimizer.name=adamw_bf16", "optimizer.in_backward=true", "adapter.weights=bf16"),
    *("training.max_grad_norm=null", "training.accumulation=1"),
)
"""What trains all weights in a third of the memory (docs/optimizers.md)."""
_SETTINGS = ("training.gradient_checkpointing=false", "optimizer.warmup_steps=0", "preview.every=0")


def _ours(
    place: Place, recipe: str, size: int, batch: int, *more: str, changes: tuple[str, ...] = ()
) -> Program:
    sets = (word for change in (*_SETTINGS, *changes) for word in ("--set", change))
    arguments = (
        *(recipe, "--model", str(place.model), "--steps", _LONG, "--resolution", str(size)),
        *("--batch-size", str(batch), "--precision", PRECISION, *more, *sets),
    )
    return ours(ROOT, *arguments)


def _diffusers(place: Place, script: str, size: int, batch: int, *more: str) -> Program:
    arguments = (
        *(LAUNCH, str(place.code(DIFFUSERS) / "examples" / script), "--pretrained_model_name_or_path"),
        *(str(place.model), "--output_dir", OUT, "--max_train_steps", _LONG, "--resolution", str(size)),
        *("--train_batch_size", str(batch), "--mixed_precision", PRECISION, "--lr_scheduler", "constant"),
        *("--seed", "0", *more),
    )
    own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place.root / DIFFUSERS / "cache")}
    return Program(place.python(DIFFUSERS), arguments, place.root, own)


def _kohya(place: Place, size: int, batch: int) -> Program:
    arguments = (
        *(LAUNCH, str(place.code(KOHYA) / "train_network.py"), "--pretrained_model_name_or_path"),
        *(str(place.model), "--train_data_dir", str(place.repeated), "--output_dir", OUT),
        *("--resolution", str(size), "--train_batch_size", str(batch), "--max_train_steps", _LONG),
        *("--tokenizer_cache_dir", str(place.tokenizers), "--network_module", "networks.lora"),
        *("--network_dim", "4", "--network_alpha", "4", "--network_train_unet_only", "--cache_latents"),
        *("--mixed_precision", PRECISION, "--optimizer_type", "AdamW", "--learning_rate", "1e-4"),
        *("--sdpa", "--max_data_loader_n_workers", "0", "--seed", "0"),
    )
    return Program(place.python(KOHYA), arguments, place.code(KOHYA), {"HF_HUB_OFFLINE": "1"})


def _subject(place: Place, option: str) -> tuple[str, ...]:
    """The pictures and their prompt as options, spelled with `-` or `_`."""
    folder = "--instance-dir" if option == "-" else "--instance_data_dir"
    return (folder, str(place.pictures), f"--instance{option}prompt", CAPTION)


def lora(place: Place, size: int, batch: int = 1) -> dict[str, Program]:
    """LoRA; kohya with cached latents."""
    changes = ("adapter.alpha=4", "adapter.targets=attention", "optimizer.name=adamw")
    rank = ("--rank", "4")
    theirs = (*_subject(place, "_"), *rank, "--learning_rate", "1e-4")
    return {
        OURS: _ours(place, "lora", size, batch, *_subject(place, "-"), *rank, changes=changes),
        DIFFUSERS: _diffusers(place, "dreambooth/train_dreambooth_lora.py", size, batch, *theirs),
        KOHYA: _kohya(place, size, batch),
    }


def dreambooth(place: Place, size: int, batch: int = 1) -> dict[str, Program]:
    """DreamBooth without class pictures."""
    mine = _subject(place, "-")
    theirs = (*_subject(place, "_"), "--use_8bit_adam", "--learning_rate", "5e-6")
    return {
        f"{OURS}, adamw8bit": _ours(
            place, "dreambooth", size, batch, *mine, changes=("optimizer.name=adamw8bit",)
        ),
        f"{OURS}, adamw": _ours(place, "dreambooth", size, batch, *mine, changes=("optimizer.name=adamw",)),
        f"{OURS}, bf16": _ours(place, "dreambooth", size, batch, *mine, changes=LEAN),
        f"{DIFFUSERS}, adamw8bit": _diffusers(place, "dreambooth/train_dreambooth.py", size, batch, *theirs),
    }


def controlnet(place: Place, size: int, batch: int = 1) -> dict[str, Program]:
    """A ControlNet of edges."""
    mine = ("--data-dir", str(place.pairs))
    theirs = ("--train_data_dir", str(place.pairs), "--learning_rate", "1e-5")
    return {
        OURS: _ours(place, "controlnet", size, batch, *mine, changes=("optimizer.name=adamw",)),
        f"{OURS}, bf16": _ours(place, "controlnet", size, batch, *mine, changes=LEAN),
        DIFFUSERS: _diffusers(place, "controlnet/train_controlnet.py", size, batch, *theirs),
    }


CASES: dict[str, tuple[Callable[[Place, int, int], dict[str, Program]], int]] = {
    "lora-256": (lora, 256),
    "lora-512": (lora, 512),
    "dreambooth-256": (dreambooth, 256),
    "controlnet-256": (controlnet, 256),
}
