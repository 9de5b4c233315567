"""Content hashes follow weights and settings, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from finetune.backbones import Backbone, load_backbone
from finetune.config import ModelSection
from tests.tiny import Family, tiny_backbone_folder


def prints(backbone: Backbone) -> tuple[str, str]:
    return backbone.fingerprint_vae(), backbone.fingerprint_text()


def test_same_content_elsewhere_has_the_same_print(
    backbone: Backbone, family: Family, tmp_path: Path
) -> None:
    other = load_backbone(ModelSection(name=str(tiny_backbone_folder(family, tmp_path))))
    assert prints(other) == prints(backbone)


def test_one_changed_weight_changes_its_print_only(backbone: Backbone) -> None:
    vae, text = prints(backbone)
    with torch.no_grad():
        backbone.text_encoders[-1].get_input_embeddings().weight[0, 0] += 1e-3
    assert backbone.fingerprint_vae() == vae
    assert backbone.fingerprint_text() != text


def test_a_training_step_is_seen(backbone: Backbone) -> None:
    before = prints(backbone)
    parts = (backbone.vae, *backbone.text_encoders)
    weights = [p.requires_grad_(True) for part in parts for p in part.parameters()]
    torch.stack([p.square().sum() for p in weights]).sum().backward()
    torch.optim.AdamW(weights).step()
    assert not set(before) & set(prints(backbone))


def test_settings_count(backbone: Backbone) -> None:
    vae, text = prints(backbone)
    backbone.vae.register_to_config(scaling_factor=0.5)
    assert backbone.fingerprint_vae() != vae
    backbone.tokenizers[0].pad_token = "a"
    assert backbone.fingerprint_text() != text


def test_the_unet_plays_no_part(backbone: Backbone) -> None:
    before = prints(backbone)
    with torch.no_grad():
        backbone.unet.conv_in.weight += 1
    assert prints(backbone) == before


def test_another_process_finds_the_same_print(tmp_path: Path) -> None:
    """Published configurations are older than diffusers and say less; sets are in another order there."""
    folder = tiny_backbone_folder("sd1", tmp_path)
    for part, kept in (("unet", ("block", "channels", "dim", "num", "layers")), ("vae", ("block", "latent"))):
        file = folder / part / "config.json"
        config = json.loads(file.read_text())
        few = {k: v for k, v in config.items() if k.startswith("_") or any(word in k for word in kept)}
        file.write_text(json.dumps(few | {"norm_num_groups": config["norm_num_groups"]}))
    code = (
        "import sys; from finetune.backbones import load_backbone; from finetune.config import ModelSection\n"
        "print(load_backbone(ModelSection(name=sys.argv[1])).fingerprint())"
    )
    path = os.pathsep.join(sys.path)
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1 and found != {b""}
