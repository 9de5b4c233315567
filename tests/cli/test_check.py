"""`finetune check` from folder to report, as a user types it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from finetune.cli import main
from finetune.data.buckets import trained_sizes
from finetune.recipes.lora import LoRARecipe
from tests.data.doctor.conftest import scene

Output = pytest.CaptureFixture[str]
SMALL = [
    "--model",
    "sd15",
    "--set",
    "data.buckets=false",
    "--set",
    "data.resolution=64",
    "--set",
    "training.batch_size=8",
]
pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def mycat(tmp_path: Path) -> Path:
    """Four clean pictures, a blurred and a broken one."""
    folder = tmp_path / "mycat"
    folder.mkdir()
    for seed in range(4):
        scene(seed).save(folder / f"{seed}.png")
    scene(4).filter(ImageFilter.GaussianBlur(5)).save(folder / "<soft>.png")
    (folder / "broken.png").write_bytes(b"\x89PNG no more")
    return folder


def test_the_report_fits_a_terminal_and_names_what_is_wrong(mycat: Path, capsys: Output) -> None:
    assert main(["check", str(mycat), *SMALL]) == 0
    said = capsys.readouterr().out
    assert "5 pictures (5 PNG), 96x96 pixels" in said
    assert "Trained at 64x64 (5). An epoch is 5 samples, 1 step of 8." in said
    assert "Found 2 warnings, 1 note." in said
    assert "1 picture blurred, even where sharpest: <soft>.png" in said
    assert "broken.png" in said
    assert all(len(line) <= 80 or str(mycat) in line for line in said.splitlines())
    assert said.index("warning  ") < said.index("note  ")


def test_a_long_report_is_cut_to_about_a_screen(tmp_path: Path, capsys: Output) -> None:
    folder = tmp_path / "mycat"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.png").write_bytes(b"no picture" if number % 2 else b"")
        Image.new("RGB", (20 + number, 20)).save(folder / f"gray{number}.png")
        (folder / f"gray{number}.txt").write_text(f"a, b, c{number}")
    for name in ("photo.psd", "lost.txt"):
        (folder / name).write_text("a cat")
    (folder / "gray0.txt").write_text("")
    for number in range(4):
        scene(number % 3).save(folder / f"{number}.bmp")
    assert main(["check", str(folder), *SMALL]) == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 30
    assert " ".join(said.split()).count("and 17 more") == 2  # 3 of 20 names are shown
    assert re.search(r"\n\d more, and what to do about each: --output-dir", said)


def test_json_is_for_programs_and_strict_makes_warnings_fail(mycat: Path, capsys: Output) -> None:
    assert main(["check", str(mycat), "--model", "sd15", "--json", "--strict"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["shapes"] == {"512x512": 5}
    assert report["formats"] == {"PNG": 5}
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found["skipped"]["files"] == {"broken.png": ""}
    assert found["enlarged"]["files"]["0.png"] == "96x96"
    (mycat / "<soft>.png").unlink()
    (mycat / "broken.png").unlink()
    assert main(["check", str(mycat), *SMALL, "--strict"]) == 0


def test_what_cannot_be_trained_on_is_an_error(tmp_path: Path, capsys: Output) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    for number in range(7):
        (folder / f"{number}.png").write_bytes(b"")
    assert main(["lora", "--instance-dir", str(folder), *SMALL]) == 2
    said = capsys.readouterr().err
    assert "4.png and 2 more: the file is empty" in said and "finetune check with --json" in said
    assert main(["check", str(folder), *SMALL, "--json"]) == 2
    worst, skipped = json.loads(capsys.readouterr().out)["findings"]
    assert (worst["name"], worst["severity"]) == ("unusable", "error")
    assert skipped["files"] == {f"{number}.png": "" for number in range(7)}  # all of them
    assert main(["check", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_page_and_the_sheets_show_what_the_model_will_see(mycat: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["check", str(mycat), *SMALL, "--output-dir", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"check-1.png", "check.html"}
    page = (out / "check.html").read_text(encoding="utf-8")
    assert page.count("<figure") == page.count("data:image/jpeg;base64,") == 5
    assert "<soft>" not in page and "&lt;soft&gt;.png" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # self-contained
    assert page.index("class=marked") < page.index("0.png</b>")  # what was found comes first
    with Image.open(out / "check-1.png") as sheet:
        assert sheet.width > 320


def test_the_sheets_show_how_samples_differ(mycat: Path, tmp_path: Path) -> None:
    def shown(*settings: str) -> tuple[list[str], Image.Image]:
        """What is said of the picture, and its sheet."""
        changes = [part for setting in settings for part in ("--set", setting)]
        assert main(["check", str(mycat), *SMALL, *changes, "--output-dir", str(tmp_path / "out")]) == 0
        page = (tmp_path / "out" / "check.html").read_text(encoding="utf-8")
        with Image.open(tmp_path / "out" / "check-1.png") as sheet:
            return re.findall("<b>(.*)</b>", page), sheet.convert("RGB")

    for path in mycat.glob("[!0]*"):
        path.unlink()
    (name,), plain = shown()
    assert name == "0.png"
    # A sheet has a margin of 24 pixels, and cells of 320. Two squares are drawn beside each other.
    (name,), mirrored = shown("data.flip=true")
    assert name == "0.png (2 views)" and mirrored.height < plain.height
    left, right = (mirrored.crop((x, 28, x + 150, 178)) for x in (30, 188))
    assert np.abs(np.asarray(left).astype(int) - np.asarray(right)[:, ::-1]).mean() < 2
    assert np.abs(np.asarray(left).astype(int) - np.asarray(right)).mean() > 10
    jitter = ["data.flip=true", "data.color_jitter=0.5"]
    (name,), jittered = shown(*jitter)
    assert name == "0.png (4 views)" and jittered.height == plain.height
    colors = {
        jittered.crop((x, y, x + 140, y + 140)).resize((1, 1)).getpixel((0, 0))
        for x in (35, 192)
        for y in (35, 192)
    }
    assert len(colors) == 4
    assert shown(*jitter, "data.cache=false")[1].tobytes() == jittered.tobytes()


def test_a_recipe_file_decides_what_the_pictures_are_for(mycat: Path, tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "edges.yaml"
    file.write_text("kind: controlnet\ndata: {data_dir: elsewhere, preprocess: edges, resolution: 32}\n")
    assert main(["check", str(mycat), "--recipe", str(file), "--model", "sd15"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "finetune controlnet" in said
    assert "Trained at 32x32 (5)." in said


def test_left_and_right_are_told_where_pictures_are_mirrored(mycat: Path, capsys: Output) -> None:
    (mycat / "0.txt").write_text("mycat on the left")
    for settings, expected in ((("--set", "data.flip=true"), {"0.png": ""}), ((), None)):
        assert main(["check", str(mycat), *SMALL, "--json", *settings]) == 0
        found = {one["name"]: one["files"] for one in json.loads(capsys.readouterr().out)["findings"]}
        assert found.get("left-right") == expected


def test_a_mistyped_recipe_is_answered(mycat: Path, capsys: Output) -> None:
    assert main(["check", str(mycat), "--recipe", "loar"]) == 2
    assert "Did you mean lora?" in capsys.readouterr().err
    assert main(["check", str(mycat), "--set", "data.instance_dir=elsewhere"]) == 2
    assert "data.instance_dir is given twice." in capsys.readouterr().err


def test_control_pictures_of_another_shape_are_an_error(tmp_path: Path, capsys: Output) -> None:
    for place, width in (("mycat", 96), ("edges", 48)):
        (tmp_path / place).mkdir()
        scene(0, width, 96).save(tmp_path / place / "a.png")
    edges = f"data.conditioning_dir={tmp_path / 'edges'}"
    assert (
        main(["check", str(tmp_path / "mycat"), "--recipe", "controlnet", "--model", "sd15", "--set", edges])
        == 2
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "error Picture and control picture differ in shape: a.png (96x96) and" in said
    assert "Found 1 error." in said


def test_training_tells_the_worst_in_short(
    tiny_models: dict[str, Path], tmp_path: Path, capsys: Output
) -> None:
    folder = tmp_path / "mycat"
    folder.mkdir()
    for seed in range(3):
        scene(seed).save(folder / f"{seed}.png")
        (folder / f"{seed}.txt").write_text(f"{'mycat' if seed else 'a cat'} on a sofa, place {seed}")
    model = ["--model", str(tiny_models["sd1"]), "--steps", "1", "--set", "preview.every=0"]
    assert main(["lora", "--instance-dir", str(folder), *model]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert '1 caption without the trigger word "mycat": 0.png' in lines
    assert any(line.startswith("only 3 pictures") for line in lines)
    assert 'in every caption, so learned as one with the subject: "sofa", "place"' in lines


def test_shapes_are_those_of_training(tmp_path: Path, capsys: Output) -> None:
    folder = tmp_path / "mycat"
    folder.mkdir()
    for seed in range(4):
        scene(seed, 192 if seed else 96, 96).save(folder / f"{seed}.png")
    buckets = ["--model", "sd15", "--set", "data.resolution=64", "--output-dir", str(tmp_path / "out")]
    assert main(["check", str(folder), *buckets, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    data = LoRARecipe(data={"instance_dir": folder}).data
    sizes = [size for _, size in trained_sizes([(96, 96), (96, 192), (96, 192), (96, 192)], data, 64, 8)]
    assert report["shapes"] == {
        f"{width}x{height}": sizes.count((height, width)) for height, width in set(sizes)
    }
    assert len(report["shapes"]) == 2


def test_the_folders_of_a_recipes_file_need_not_be_given(mycat: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "more").mkdir()
    for seed in range(10, 12):
        scene(seed).save(tmp_path / "more" / f"{seed}.png")
    (tmp_path / "more" / "bad.png").write_bytes(b"")
    file = tmp_path / "mycat.yaml"
    for text in (
        "data: {instance_dir: mycat, sources: [{dir: more, repeats: 3}]}",
        "data: {sources: [{dir: mycat}, {dir: more, repeats: 3}]}",
    ):
        file.write_text(f"kind: lora\n{text}\n")
        assert main(["check", "--recipe", str(file), *SMALL]) == 0
        said = capsys.readouterr().out
        assert said.startswith("mycat, more for finetune lora.")
        assert "An epoch is 11 samples, 2 steps of 8." in said
        assert "Of these samples 5 are of mycat, 6 are of more." in said
        assert "mycat/<soft>.png" in said and "mycat/broken.png" in said and "more/bad.png" in said
    assert main(["check", "--recipe", str(file), *SMALL, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples_by_folder"] == {"mycat": 5, "more": 6}
    assert main(["check", "--recipe", str(file), *SMALL, "--output-dir", "out"]) == 0
    page = (tmp_path / "out" / "check.html").read_text()
    assert "<h1>mycat, more for finetune lora</h1>" in page and "more/10.png" in page
    capsys.readouterr()
    assert main(["check", "--recipe", "full"]) == 2
    assert "No pictures are given." in capsys.readouterr().err
