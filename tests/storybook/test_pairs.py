"""Pairs drawn from the storybook world, and the segmenter that reads silhouettes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.config import PairsSection
from finetune.data import scan_pairs
from finetune.errors import WeightsError
from storybook.control_gates import check_controlnet, show_controlnet
from storybook.oracle import Oracle
from storybook.pairs import CONTROLS, draw_scene, main, write_pairs
from storybook.segmenter import Segmenter, overlap
from storybook.segmenter_training import check
from storybook.world import is_held_out


@pytest.mark.parametrize("control", CONTROLS)
def test_written_pairs_can_be_trained_on(tmp_path: Path, control: str) -> None:
    folder = tmp_path / "pairs"
    assert main(["--control", control, "--count", "3", "--output-dir", str(folder)]) == 0
    found = scan_pairs(PairsSection(data_dir=folder))
    assert len(found.pictures) == 3 and found.skipped == () and found.notes == ()
    assert all(picture.caption for picture in found.pictures)
    write_pairs(tmp_path / "more", control, 5)
    for file in folder.rglob("*.png"):
        assert file.read_bytes() == (tmp_path / "more" / file.relative_to(folder)).read_bytes()
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {"file_name", "conditioning_image", "text"}


def test_shards_hold_the_same_pairs(tmp_path: Path) -> None:
    for more in ([], ["--shard-size", "2"]):
        assert main(["--count", "3", "--output-dir", str(tmp_path / f"pairs{len(more)}"), *more]) == 0
    assert sorted(path.name for path in (tmp_path / "pairs2").iterdir()) == ["00000.tar", "00001.tar"]
    folder, stream = (scan_pairs(PairsSection(data_dir=tmp_path / name)) for name in ("pairs0", "pairs2"))
    assert stream.stream is not None
    for of in ("pictures", "controls"):
        assert [(p.digest, p.caption) for p in getattr(folder, of)] == [
            (p.digest, p.caption) for p in getattr(stream, of)
        ]


def test_scenes() -> None:
    scene = draw_scene(np.random.default_rng(3), held_out=True)
    assert is_held_out(scene.spec.animal, scene.spec.colour, scene.spec.scene)
    assert np.array_equal(np.asarray(scene.control("silhouettes"))[..., 0], np.asarray(scene.mask))
    assert scene.control("edges").size == scene.picture.size


def test_overlap() -> None:
    a = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[1, 1, 1, 1]]]).bool()
    b = torch.tensor([[[0, 1, 1, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]]).bool()
    assert torch.allclose(overlap(a, b), torch.tensor([1 / 3, 1.0, 0.0]))


def test_the_bundled_segmenter_reads_silhouettes() -> None:
    found = check(Segmenter.load(), count=60, seed=5)
    assert found["drawn, mean IoU"] > 0.95
    assert found["degraded, mean IoU"] > 0.94


def test_a_missing_segmenter_is_told(tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="segmenter_training"):
        Segmenter.load(tmp_path / "s.safetensors")


def test_the_gate_prints_its_figures(
    tiny_models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from finetune.adapters import ControlNet
    from finetune.backbones import load_backbone
    from finetune.config import ControlNetSection, ModelSection
    from finetune.formats import write_controlnet
    from finetune.sampling import Sampler

    backbone = load_backbone(ModelSection(name=str(tiny_models["sd1"])))
    write_controlnet(tmp_path, ControlNet(backbone, ControlNetSection()), {})
    sampler = Sampler(backbone)
    sampler.add_controlnet(tmp_path)
    sheet = tmp_path / "sheet.png"
    figures = check_controlnet(sampler, Oracle.load(), Segmenter.load(), "edges", count=2, picture=sheet)
    show_controlnet("edges", figures)
    said = capsys.readouterr().out
    assert all(name in said for name in (*figures.overlaps, *figures.parts))
    assert all(0 <= value <= 1 for value in (*figures.overlaps.values(), *figures.parts.values()))
    with Image.open(sheet) as picture:
        assert picture.width > picture.height
