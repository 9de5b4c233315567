"""Files that LyCORIS's own classes write and read: the same change of every weight, both ways.

LyCORIS (github.com/KohakuBlueleaf/LyCORIS) is where the layouts are from; the package is in the extra `dev`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finetune.backbones import Backbone
from finetune.formats import apply_lora, read_lora, write_kohya
from tests import layouts
from tests.formats.conftest import trained_lora

ONE_FAMILY = pytest.mark.parametrize("family", ["sd1"], indirect=True)
Answers = dict[str, Tensor]
SMALL: dict[str, Any] = {"lora_dim": 3, "alpha": 2.0, "conv_lora_dim": 2, "conv_alpha": 1.5}
# What LyCORIS makes of `network_args`, by its own names.
THEIRS: dict[str, dict[str, Any]] = {
    "locon": {"network_module": "locon"},
    "locon with a core": {"network_module": "locon", "use_tucker": True},
    "locon by the root of the rank": {"network_module": "locon", "rs_lora": True},
    "locon with a scalar": {"network_module": "locon", "use_scalar": True},
    "dora by output": {"network_module": "locon", "weight_decompose": True, "wd_on_out": True},
    "dora by input": {"network_module": "locon", "weight_decompose": True, "wd_on_out": False},
    "loha": {"network_module": "loha"},
    "loha with cores": {"network_module": "loha", "use_tucker": True},
    "loha by output": {"network_module": "loha", "weight_decompose": True, "wd_on_out": True},
    "loha by input": {"network_module": "loha", "weight_decompose": True, "wd_on_out": False},
    "lokr": {"network_module": "lokr", "lora_dim": 1, "conv_lora_dim": 1},
    "lokr of both in parts": {"network_module": "lokr", "lora_dim": 1, "decompose_both": True, "factor": 4},
    "lokr with a core": {"network_module": "lokr", "lora_dim": 1, "conv_lora_dim": 1, "use_tucker": True},
    "lokr whole": {"network_module": "lokr", "full_matrix": True},
    "lokr the other way": {"network_module": "lokr", "unbalanced_factorization": True},
    "lokr by output": {"network_module": "lokr", "lora_dim": 1, "weight_decompose": True, "wd_on_out": True},
    "lokr by input": {"network_module": "lokr", "lora_dim": 1, "weight_decompose": True, "wd_on_out": False},
    "full": {"network_module": "full"},
    "norms": {"network_module": "locon", "train_norm": True},
}
# Trained here, by our names.
OURS: dict[str, dict[str, Any]] = {
    "lora": {"text_encoder": True},
    "locon": {"conv_rank": 2, "conv_alpha": 3.0, "rslora": True, "targets": "all", "text_encoder": True},
    "dora": {"dora": True, "conv_rank": 2, "text_encoder": True},
    "loha": {"algorithm": "loha", "conv_rank": 2, "text_encoder": True},
    "lokr": {"algorithm": "lokr", "rank": 1, "conv_rank": 1, "text_encoder": True},
    "lokr in parts": {"algorithm": "lokr", "rank": 8, "alpha": 24.0, "factor": 2},
}


@pytest.fixture(autouse=True)
def quiet_lycoris() -> Iterator[Any]:
    """LyCORIS tells each step, and keeps what its classes aim at in the classes."""
    from lycoris.kohya import LycorisNetworkKohya

    told = logging.getLogger("LyCORIS")
    level = told.level
    told.setLevel(logging.ERROR)
    aims = {
        "UNET_TARGET_REPLACE_MODULE": [],
        "UNET_TARGET_REPLACE_NAME": [r"(down_blocks\.2|mid_block)\..*"],  # layers of every kind
        "TEXT_ENCODER_TARGET_REPLACE_MODULE": ["CLIPAttention", "CLIPMLP"],
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, aim in aims.items():
            patch.setattr(LycorisNetworkKohya, name, aim)
        yield
    told.setLevel(level)


class Classic(nn.Module):
    """A text encoder under the name it had before transformers 5, which files have."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.text_model = getattr(encoder, "text_model", encoder)


def encoders(backbone: Backbone) -> Any:
    """As kohya's scripts give them to LyCORIS: a list for SDXL, else the one."""
    classic = [Classic(encoder) for encoder in backbone.text_encoders]
    return classic if len(classic) > 1 else classic[0]


class Original:
    """An SDXL UNet with the original code's names, as kohya's scripts have it."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """As of a module."""
        config = replace(layouts.UNETS["sdxl"], depth=(1, 2, 3))  # of the tiny model
        for tensor in layouts.unet(config):
            name, _, kind = tensor.original.rpartition(".")
            if kind == "weight":
                yield name, self.unet.get_submodule(tensor.diffusers.rpartition(".")[0])


def named(backbone: Backbone) -> Any:
    """The UNet as kohya's scripts give it to LyCORIS."""
    return Original(backbone.unet) if backbone.family == "sdxl" else backbone.unet


def answers(backbone: Backbone) -> Answers:
    """What every layer and norm makes of random numbers, as LyCORIS trains it: its merging is another matter.

    (Its merging multiplies LoHas and LoKrs by alpha/rank twice, as of 4.1.)
    """
    found = {}
    for part, root in backbone.module_roots().items():
        for name, module in root.named_modules():
            if isinstance(module, nn.Linear):
                shape: tuple[int, ...] = (3, module.in_features)
            elif isinstance(module, nn.LayerNorm):
                shape = (3, *module.normalized_shape)
            elif isinstance(module, nn.Conv2d):
                shape = (1, module.in_channels, 4, 4)
            elif isinstance(module, nn.GroupNorm):
                shape = (1, module.num_channels, 4, 4)
            else:
                continue
            given = torch.randn(shape, generator=torch.Generator().manual_seed(len(found)))
            found[f"{part}.{name}"] = module(given)
    return found


def changed(ours: Answers, theirs: Answers, before: Answers) -> int:
    """How many layers answer otherwise than before; all must answer alike, to 1e-5 of the largest change."""
    assert ours.keys() == theirs.keys() == before.keys()
    count = 0
    for name, answer in theirs.items():
        size = (answer - before[name]).abs().max().item()
        count += size > 1e-4
        worst = (ours[name] - answer).abs().max().item()
        assert worst <= 1e-5 * max(size, 1.0), (name, worst, size)
    return count


@torch.no_grad()
def stir(network: nn.Module) -> None:
    """Gives every parameter a value as if trained."""
    drawn = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=drawn))


@ONE_FAMILY
@pytest.mark.parametrize("kind", THEIRS)
@torch.no_grad()
def test_theirs_are_read(kind: str, backbone: Backbone, tmp_path: Path) -> None:
    """What LyCORIS merges in memory is what we merge from the file that it saves."""
    from lycoris.kohya import LycorisNetworkKohya

    trained = copy.deepcopy(backbone)
    network = LycorisNetworkKohya(encoders(trained), trained.unet, **(SMALL | THEIRS[kind]))
    network.apply_to(None, None, apply_text_encoder=True, apply_unet=True)
    stir(network)
    network.save_weights(str(tmp_path / "theirs.safetensors"), None, {})
    before = answers(backbone)
    apply_lora(backbone, read_lora(tmp_path / "theirs.safetensors", backbone)).merge()
    assert changed(answers(backbone), answers(trained), before) == len(network.loras) > 50


@pytest.mark.parametrize(
    ("kind", "family"),
    [*((kind, "sd1") for kind in OURS), ("locon", "sd2"), ("locon", "sdxl")],
    indirect=["family"],
)
@torch.no_grad()
def test_ours_are_read_by_lycoris(kind: str, backbone: Backbone, tmp_path: Path) -> None:
    """What we export changes the weights by the same amount when LyCORIS reads and merges it."""
    from lycoris.kohya import create_network_from_weights

    before, theirs = answers(backbone), copy.deepcopy(backbone)
    adapter = trained_lora(backbone, block_rank={"up_blocks": 0}, **OURS[kind])
    file = tmp_path / "ours.safetensors"
    write_kohya(file, adapter, {})
    learned = adapter.weights()
    adapter.detach()
    network, _ = create_network_from_weights(1.0, str(file), None, encoders(theirs), named(theirs))
    network.apply_to(None, None, apply_text_encoder=True, apply_unet=True)
    assert len(network.loras) == len(learned.layers)
    apply_lora(backbone, learned).merge()
    assert changed(answers(backbone), answers(theirs), before) == len(learned.layers)


@ONE_FAMILY
@pytest.mark.parametrize("algorithm", ["lora", "lokr", "full"])
@torch.no_grad()
def test_names_without_kohyas_scripts(
    algorithm: str, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`create_lycoris` names layers `lycoris_…`, whatever the model is: a UNet, or a text encoder."""
    from lycoris import LycorisNetwork, create_lycoris

    for name in ("ENABLE_CONV", "TARGET_REPLACE_MODULE", "TARGET_REPLACE_NAME"):
        monkeypatch.setattr(LycorisNetwork, name, getattr(LycorisNetwork, name))
    for part, chosen in (("unet", "ResnetBlock2D"), ("text_encoder", "CLIPAttention")):
        trained, ours = copy.deepcopy(backbone), copy.deepcopy(backbone)
        preset = tmp_path / "preset.toml"
        preset.write_text(f'target_module = ["{chosen}"]\ntarget_name = []\n')
        network = create_lycoris(
            trained.module_roots()[part], 1.0, 2, 1.0, algo=algorithm, preset=str(preset)
        )
        network.apply_to()
        stir(network)
        file = tmp_path / f"{part}.safetensors"
        network.save_weights(str(file), None, {})
        apply_lora(ours, read_lora(file, ours)).merge()
        assert changed(answers(ours), answers(trained), answers(backbone)) == len(network.loras) > 5
