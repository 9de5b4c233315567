"""The memory that an export takes beside the files that it reads: far less than the state that it writes."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from finetune.backbones import load_backbone, load_stored
from finetune.backbones.saving import save_folder
from finetune.config import ModelSection
from finetune.export import Job, Made, export
from finetune.formats import write_kohya
from finetune.kernels import give_back_freed_memory
from tests.formats.conftest import trained_lora

MIB = 2**20
_RESET = Path("/proc/self/clear_refs")


def held(what: str) -> int:
    """Bytes of this process in memory, mapped files included: now (VmRSS) or at most (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{what}:")[2].split()[0]) * 1024


@pytest.fixture(scope="module")
def wide(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model in fp16 with a wider UNet (36 MiB), and a LoRA for it."""
    place = tmp_path_factory.mktemp("wide")
    backbone = load_backbone(ModelSection(name=str(tiny_models["sd1"])))
    config = dict(backbone.unet.config) | {"block_out_channels": (64, 128, 224, 224), "norm_num_groups": 8}
    backbone.unet = UNet2DConditionModel.from_config(config)
    save_folder(backbone, place / "model", torch.float16)
    lora = trained_lora(backbone)
    write_kohya(place / "lora.safetensors", lora, {})
    return place / "model", place / "lora.safetensors"


@pytest.mark.skipif(not _RESET.exists(), reason="Linux tells what was in memory at most")
@pytest.mark.parametrize("form", ["merged", "single-file"])
def test_a_merged_model_is_never_in_memory_as_a_whole(
    form: str, wide: tuple[Path, Path], tmp_path: Path
) -> None:
    model, lora = wide
    out = tmp_path / ("model" if form == "merged" else "model.safetensors")
    gc.collect()
    give_back_freed_memory()
    _RESET.write_text("5", encoding="utf-8")  # the peak begins anew (man 5 proc)
    before = held("VmRSS")
    export(form, Made("lora", lora), Job(lora, load_stored(ModelSection(name=str(model))), out))
    used = held("VmHWM") - before
    files = [out] if out.is_file() else out.rglob("*.safetensors")
    size = sum(file.stat().st_size for file in files)
    assert size > 60 * MIB
    assert used < 0.5 * size
