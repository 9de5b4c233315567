"""Each finding about pictures on pictures made for it, and none on clean ones."""

from __future__ import annotations

import io
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from finetune.config import PairsSection
from finetune.data import scan_folder, scan_pairs
from finetune.data.doctor import DataSet, examine, look_at, worst
from finetune.data.doctor.copies import NEAR, nearest_before
from finetune.data.doctor.look import jpeg_quality, perceptual_hash, sharpness
from finetune.data.doctor.quality import shifted
from finetune.data.doctor.shift import shift_between
from finetune.data.read import Reader
from tests.data.doctor.conftest import Find, scene


def jpeg(image: Image.Image, quality: int) -> bytes:
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=quality)
    return packed.getvalue()


def test_clean_pictures_are_clean(find: Find) -> None:
    found = find({"more.jpg": jpeg(scene(9), 90)})
    assert set(found) == {"folder"}  # that the folder's name is the trigger word
    assert found["folder"].severity == "note"


def test_each_fault_is_found_and_nothing_else(find: Find) -> None:
    whole = jpeg(scene(20), 90)
    found = find(
        {
            "zero.png": b"",
            "cut.jpg": whole[: len(whole) // 2],
            "tiny.png": scene(21, 32, 32),
            "wide.png": scene(22, 300, 96),
            "photo.png": scene(23, 128, 96),
            "blurred.png": scene(24).filter(ImageFilter.GaussianBlur(5)),
            "coarse.jpg": jpeg(scene(25), 30),
            "gray.png": Image.new("RGB", (96, 96), "gray"),
        }
    )
    skipped = found.pop("skipped")  # one for each reason; the last is looked at here
    assert set(skipped.files) == {"zero.png"}
    assert found.pop("folder").severity == "note"
    assert {name: dict(one.files) for name, one in found.items()} == {
        "enlarged": {"tiny.png": "32x32"},
        "cropped": {"wide.png": "68%"},
        "cropped-little": {},
        "blurred": {"blurred.png": ""},
        "compressed": {"coarse.jpg": "quality 30"},
        "uniform": {"gray.png": ""},
    }
    assert "up to 2.0 times" in found["enlarged"].sentence
    assert "up to 25%" in found["cropped-little"].sentence


def test_files_of_one_reason_are_together_whatever_the_library_says_of_each(find: Find) -> None:
    whole = jpeg(scene(20), 90)
    shares = {"a.jpg": 0.3, "b.jpg": 0.5, "c.jpg": 0.7}
    found = find({name: whole[: int(share * len(whole))] for name, share in shares.items()})["skipped"]
    assert found.sentence == "3 files not trained on: the picture is truncated"
    details = [
        re.fullmatch(r"image file is truncated \(\d+ bytes not processed\)", one)
        for one in found.files.values()
    ]
    assert list(found.files) == list(shares) and all(details)
    assert len(set(found.files.values())) > 1


def test_copies_near_copies_and_mirror_images_are_told_apart(find: Find) -> None:
    original = scene(30)
    same = io.BytesIO()
    original.save(same, "PNG")
    found = find(
        {
            "a.png": same.getvalue(),
            "b.png": same.getvalue(),
            "c.jpg": original.resize((70, 70), Image.Resampling.LANCZOS),
            "d.png": ImageOps.mirror(original),
        }
    )
    assert found["copies"].files == {"b.png": "as a.png"}
    assert found["near-copies"].files == {"c.jpg": "as a.png"}
    assert found["mirrored"].files == {"d.png": "as a.png"}


def hash_of(image: Image.Image) -> int:
    gray = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    return perceptual_hash(np.asarray(gray, dtype=np.float64))


def test_the_limit_of_nearly_equal_separates_variants_from_other_pictures() -> None:
    variants, others = [], []
    for seed in range(12):
        image = scene(seed, 200, 160)
        own = hash_of(image)
        changed = [
            image.resize((100, 80), Image.Resampling.BICUBIC),
            Image.open(io.BytesIO(jpeg(image, 40))),
            ImageEnhance.Brightness(image).enhance(1.15),
            image.crop((2, 2, 198, 158)),
        ]
        variants += [(own ^ hash_of(one)).bit_count() for one in changed]
        others += [(own ^ hash_of(scene(other, 200, 160))).bit_count() for other in range(seed)]
        others.append((own ^ hash_of(ImageOps.mirror(image))).bit_count())
    assert max(variants) <= NEAR < min(others)


def test_the_nearest_earlier_picture_is_named_also_across_blocks() -> None:
    draws = np.random.default_rng(0)
    hashes = [int(h) for h in draws.integers(0, 2**63, 2100, dtype=np.uint64)]
    hashes[1500] = hashes[3] ^ 0b111
    hashes[2099] = hashes[1500] ^ 0b111000  # three bits from one, six from the other
    assert nearest_before(hashes, hashes) == {1500: 3, 2099: 1500}


@pytest.mark.parametrize("quality", [20, 35, 49, 50, 75, 90, 95, 100])
def test_the_quality_of_libjpeg_is_recognized(quality: int) -> None:
    with Image.open(io.BytesIO(jpeg(scene(1), quality))) as image:
        assert jpeg_quality(list(image.quantization[0])) == pytest.approx(quality, abs=2)  # type: ignore[attr-defined]


def test_tables_of_the_lowest_qualities_are_coarse() -> None:
    with Image.open(io.BytesIO(jpeg(scene(1), 3))) as image:
        assert jpeg_quality(list(image.quantization[0])) < 20  # type: ignore[attr-defined]


def test_sharpness_is_that_of_the_sharpest_tenth_and_free_of_contrast() -> None:
    rows, columns = np.indices((66, 66))
    waves = 100 + 50 * np.sin(2 * np.pi * columns / 8)  # whole waves in each tile of 8
    # The Laplacian of a sine is the sine times 2 cos(2 pi / 8) - 2, so the variances have its square.
    expected = (2 - 2 * np.cos(2 * np.pi / 8)) ** 2
    assert sharpness(waves) == pytest.approx(expected, rel=0.03)
    assert sharpness(0.3 * waves) == pytest.approx(sharpness(waves))
    half = np.where(rows < 33, waves, 100 + 50 * np.sin(2 * np.pi * columns / 66))
    assert sharpness(half) > 0.5 * expected  # a smooth half does not count
    assert sharpness(np.full((66, 66), 7.0)) == 0


def test_few_pictures_and_many_repeats(tmp_path: Path) -> None:
    place = tmp_path / "200_mycat"
    place.mkdir()
    scene(0).save(place / "a.png")
    found = {one.name: one for one in worst(DataSet(scan_folder(tmp_path)))}
    assert found["repeats"].files == {"200_mycat/a.png": "200 times"}
    assert found["few"].sentence.startswith("only 1 picture:")


def test_control_pictures_that_are_displaced(tmp_path: Path) -> None:
    (tmp_path / "edges").mkdir()
    for seed, shift in enumerate([0, 16, 0]):
        image = scene(seed, 160, 160)
        image.save(tmp_path / f"{seed}.png")
        edges = Image.new("L", image.size)
        edges.paste(image.convert("L").filter(ImageFilter.FIND_EDGES), (0, shift))
        edges.save(tmp_path / "edges" / f"{seed}.png")
    pairs = scan_pairs(PairsSection(data_dir=tmp_path, conditioning_dir=tmp_path / "edges"))
    looks = Reader().map(
        lambda pair: look_at(pair[0], 64, pair[1]), zip(pairs.pictures, pairs.controls, strict=True)
    )
    assert looks[1].shift == pytest.approx((0.1, 0), abs=0.01)  # one pixel of 128
    found = list(shifted(DataSet(pairs, looks=looks)))
    assert [list(one.files) for one in found] == [["1.png"]]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_said_of_control_pictures_that_show_something_else(seed: int) -> None:
    other = scene(seed + 20, 160, 160).convert("L").filter(ImageFilter.FIND_EDGES)
    assert shift_between(scene(seed, 160, 160).convert("L"), other) == (0, 0)


def test_nothing_is_said_of_control_pictures_that_have_no_edges() -> None:
    assert shift_between(scene(0).convert("L"), Image.new("L", (96, 96))) == (0, 0)


def test_what_the_layout_has_for_something_else_is_only_a_note(find: Find) -> None:
    found = find({"clean0-masklabel.png": Image.new("L", (96, 96), 255), "lost-masklabel.png": scene(9)})
    assert found["skipped"].severity == "warning"  # a mask of nothing; the last reason
    assert set(found["skipped"].files) == {"lost-masklabel.png"}
    assert find_severity({"img/10_sks dog/1.png", "reg/1_dog/2.png"}) == ["note"]


def find_severity(names: set[str]) -> list[str]:
    """How bad the skipped files of a folder in kohya's layout are."""
    with TemporaryDirectory() as place:
        for name in names:
            (file := Path(place, name)).parent.mkdir(parents=True)
            scene(len(name)).save(file)
        data = DataSet(scan_folder(place))
        return [finding.severity for finding in examine(data) if finding.name == "skipped"]
