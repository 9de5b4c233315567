"""cloneofsimo/lora's files, numbered by walking the model as that program does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from finetune.backbones import Backbone
from finetune.errors import WeightsError
from finetune.formats import apply_lora, read_embedding, read_lora
from tests.formats.conftest import trained_lora

CLASSES = {"unet": ["CrossAttention", "Attention", "GEGLU"], "text_encoder": ["CLIPAttention"]}
EXTENDED = CLASSES | {"unet": ["ResnetBlock2D", *CLASSES["unet"]]}
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


def walked(model: nn.Module, classes: list[str]) -> Iterator[tuple[str, Any]]:
    """Every linear layer and convolution below a module of one of the classes, in the modules' order."""
    for outer, module in model.named_modules():
        if type(module).__name__ in classes:
            for inner, layer in module.named_modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    yield f"{outer}.{inner}", layer


def feed_forward_second(unet: Any) -> None:
    """The order of modules in diffusers when these files were made: `attn1`, `ff`, `attn2`."""
    for module in unet.modules():
        if type(module).__name__ == "BasicTransformerBlock":
            module._modules["attn2"] = module._modules.pop("attn2")


def file_of(
    backbone: Backbone, folder: Path, classes: dict[str, list[str]], words: dict[str, Tensor] | None = None
) -> tuple[Path, dict[tuple[str, str], Tensor]]:
    """A file of random LoRAs, and the change of each layer."""
    drawn = torch.Generator().manual_seed(0)
    tensors, metadata, changes = dict(words or {}), {}, {}
    for part, names in classes.items():
        metadata[part] = json.dumps(names)
        for number, (name, layer) in enumerate(walked(backbone.module_roots()[part], names)):
            out, *into = layer.weight.shape
            up = torch.randn(out, 2, *[1] * (len(into) - 1), generator=drawn)
            down = torch.randn(2, *into, generator=drawn)
            tensors |= {f"{part}:{number}:up": up, f"{part}:{number}:down": down}
            metadata[f"{part}:{number}:rank"] = "2"
            changes[part, name] = (up.flatten(1) @ down.flatten(1)).view(layer.weight.shape)
    metadata |= dict.fromkeys(words or {}, "<embed>")
    save_file(tensors, folder / "x.safetensors", metadata)
    return folder / "x.safetensors", changes


@pytest.mark.parametrize("family", ["sd1", "sd2"], indirect=True)
@pytest.mark.parametrize("classes", [CLASSES, EXTENDED], ids=["plain", "extended"])
@pytest.mark.parametrize("order", ["then", "now"])
def test_numbers_are_layers(
    order: str, classes: dict[str, list[str]], backbone: Backbone, fresh: Any, tmp_path: Path
) -> None:
    if order == "then":
        feed_forward_second(backbone.unet)
    file, changes = file_of(backbone, tmp_path, classes)
    model = fresh()
    weights = read_lora(file, model)
    assert weights.layers.keys() == {(p, model.file_name(p, name)) for p, name in changes}
    for (part, name), change in changes.items():
        layer = weights.layers[part, model.file_name(part, name)]
        torch.testing.assert_close(layer.delta(), change)


@one_family
def test_it_is_read_beside_another_lora(backbone: Backbone, tmp_path: Path) -> None:
    file, changes = file_of(backbone, tmp_path, CLASSES)
    trained_lora(backbone, targets="all", text_encoder=True)  # PEFT's layers are around the model's
    weights = read_lora(file, backbone)
    assert len(weights.layers) == len(changes)
    apply_lora(backbone, weights)


@one_family
def test_its_words_are_learned(backbone: Backbone, tmp_path: Path) -> None:
    words = {"<s1>": torch.ones(16), "<s2>": torch.full((1, 16), 2.0)}
    file, _ = file_of(backbone, tmp_path, CLASSES, words)
    weights = read_lora(file, backbone)
    assert [(word.text, float(word.rows[0].sum())) for word in weights.words] == [("<s1>", 16), ("<s2>", 32)]
    assert all(word.rows[0].shape == (1, 16) for word in weights.words)
    with pytest.raises(WeightsError, match="holds a LoRA") as caught:
        read_embedding(file, backbone)
    assert "--lora" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("family", "spoil", "told"),
    [
        ("sd1", lambda t, m: t.pop("unet:3:up"), "layers of unet are not those"),
        ("sd1", lambda t, m: [t.pop(f"text_encoder:0:{r}") for r in ("up", "down")], "11 numbered layers"),
        ("sd1", lambda t, m: t.update({"unet:0:up": torch.ones(5, 2)}), "layers of unet are not those"),
        ("sd1", lambda t, m: t.update({"unet:0:up": torch.ones(())}), "layers of unet are not those"),
        ("sd1", lambda t, m: t.update({"other:0:up": torch.ones(4, 2)}), "1 numbered layers of other"),
        ("sd1", lambda t, m: t.update({"something": torch.ones(1)}), "match no layer: something"),
        ("sd1", lambda t, m: m.update({"unet": "["}), "list of classes in unet is damaged"),
        ("sdxl", lambda t, m: None, "layers of (unet|text_encoder) are not those"),
    ],
    indirect=["family"],
)
def test_what_does_not_fit(
    spoil: Any, told: str, backbone: Backbone, loaded: dict[str, Backbone], tmp_path: Path
) -> None:
    from safetensors import safe_open

    file, _ = file_of(loaded["sd1"], tmp_path, CLASSES)
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = dict(opened.metadata())
    spoil(tensors, metadata)
    save_file(tensors, file, metadata)
    with pytest.raises(WeightsError, match=told) as caught:
        read_lora(file, backbone)
    assert caught.value.where == str(file)
