"""What `finetune inspect` says of whole models and embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from finetune.backbones import Backbone
from finetune.backbones.saving import save_folder
from finetune.backbones.words import Word
from finetune.cli import main
from finetune.formats import write_checkpoint, write_embedding, write_kohya
from finetune.tools.describe_others import describe_embedding, describe_model
from tests.formats.conftest import trained_lora

Output = pytest.CaptureFixture[str]
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


def test_a_models_folder(backbone: Backbone, tmp_path: Path) -> None:
    save_folder(backbone, tmp_path / "mine", torch.float16)
    found = describe_model(str(tmp_path / "mine"), backbone)
    modules = {**backbone.module_roots(), "vae": backbone.vae}
    assert found["parameters"] == {n: sum(p.numel() for p in m.parameters()) for n, m in modules.items()}
    assert list(found["dtypes"]) == ["float16"]
    assert found["predicts"] == ("v_prediction" if backbone.family == "sd2" else "epsilon")
    assert found["loads_in"] == ["diffusers", "finetune"]
    assert found["bytes"] == sum(file.stat().st_size for file in (tmp_path / "mine").glob("*/*.safetensors"))


@one_family
def test_a_checkpoint_file(backbone: Backbone, tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "mine.safetensors"
    write_checkpoint(file, backbone, {"modelspec.prediction_type": "v", "x": "1"}, torch.bfloat16)
    found = describe_model(str(file), backbone)
    assert (found["predicts"], found["inpainting"], found["metadata"]["x"]) == ("v_prediction", False, "1")
    assert list(found["dtypes"]) == ["bfloat16"] and "A1111" in found["loads_in"]
    assert main(["inspect", str(file)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("mine.safetensors: a whole model, SD 1.x, bfloat16")
    assert "predicts v_prediction." in said
    assert main(["inspect", "sdxl"]) == 2  # an alias of what is not here
    file.write_bytes(file.read_bytes()[:-9])
    assert main(["inspect", str(file)]) == 2
    assert "readable safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("named", [True, False])
def test_an_embedding(named: bool, tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "cat.safetensors"
    write_embedding(file, Word("<cat>", (torch.ones(3, 768),)), {}, named=named)
    found = describe_embedding(file)
    assert found is not None and found["words"] == [{"word": "<cat>", "vectors": 3}]
    assert found["family"] == "SD 1.x" and ("diffusers" in found["loads_in"]) == named
    assert main(["inspect", str(file)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("cat.safetensors: an embedding for SD 1.x, float32")
    assert "New word: <cat> (3 vectors)." in said


def test_embeddings_of_strangers(tmp_path: Path) -> None:
    file = tmp_path / "dog.safetensors"
    save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, file)
    found = describe_embedding(file)
    assert found is not None and found["family"] == "SDXL"
    assert found["words"] == [{"word": "dog", "vectors": 2}]
    save_file({"emb_params": torch.ones(2, 1024)}, file)
    found = describe_embedding(file)
    assert found is not None and found["family"] == "SD 2.x" and found["loads_in"][0] == "A1111"
    save_file({"<dog>": torch.ones(1, 5)}, file)
    found = describe_embedding(file)
    assert found is not None and found["family"] is None and found["words"][0]["word"] == "<dog>"


@one_family
def test_a_lora_is_none(backbone: Backbone, tmp_path: Path) -> None:
    lora = trained_lora(backbone)
    write_kohya(tmp_path / "x.safetensors", lora, {})
    lora.detach()
    assert describe_embedding(tmp_path / "x.safetensors") is None


def test_a_run_that_learned_a_word(tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "run" / "learned_embeds.safetensors"
    write_embedding(file, Word("<cat>", (torch.ones(1, 768),)), {}, named=True)
    assert main(["inspect", str(tmp_path / "run")]) == 0
    assert "New word: <cat>" in capsys.readouterr().out
