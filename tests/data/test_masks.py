"""Masks: that they lie where the pictures do, and that what is missing or odd is told."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from finetune.config import DataSection
from finetune.data import PictureSource, scan_folder
from finetune.data.cache import ContentCache, content_key
from finetune.data.latents import View
from finetune.data.masks import Masks
from finetune.data.preprocess import cut_out, place
from finetune.errors import DataError
from tests.data.conftest import painted, square_view, squares
from tests.data.entries import entries
from tests.tiny import only

if TYPE_CHECKING:
    from finetune.backbones import Backbone

VIEWS = [
    square_view(0),
    square_view(1, mirrored=True),
    square_view(3, at=(0.0, 0.9)),
    square_view(4, mirrored=True, at=(0.7, 0.2)),
]


def grey(picture: Path) -> Image.Image:
    """A mask that can be told from its mirror image and from every other crop."""
    with Image.open(picture) as image:
        return image.convert("L")


@pytest.fixture
def mask_dir(mycat: Path) -> Path:
    """A mask for each picture, as PNG or WebP."""
    folder = mycat.parent / "masks"
    folder.mkdir()
    for i in range(5):
        grey(mycat / f"{i}.png").save(folder / (f"{i}.png" if i % 2 else f"{i}.webp"), lossless=True)
    return folder


def masks(mycat: Path, cache: ContentCache | None = None, **data: Any) -> Masks:
    return Masks(scan_folder(mycat).pictures, DataSection(**data), 4, cache)


def expected(mycat: Path, view: View) -> Tensor:
    """The same square of the same grey values, averaged over each latent, without the class under test."""
    image = grey(mycat / f"{view.picture}.png")
    placement = place((image.height, image.width), (32, 32), at=view.at, mirrored=view.mirrored)
    square = (cut_out(image.convert("RGB"), placement)[:1] + 1) / 2
    return square.view(1, 8, 4, 8, 4).mean((2, 4))


@pytest.mark.parametrize("cached", [False, True])
def test_rows_lie_where_the_pictures_do(mycat: Path, mask_dir: Path, cached: bool) -> None:
    made = masks(mycat, ContentCache() if cached else None, mask_dir=mask_dir)
    for _ in range(2):
        rows = made.rows(VIEWS)
        assert rows.shape == (4, 1, 8, 8)
        torch.testing.assert_close(rows, torch.stack([expected(mycat, view) for view in VIEWS]))
    assert not torch.allclose(made.rows([square_view(1)]), made.rows([square_view(1, mirrored=True)]))


def test_alpha_masks_are_the_same_as_files_of_the_same_values(mycat: Path, mask_dir: Path) -> None:
    from_files = masks(mycat, mask_dir=mask_dir)
    for i in range(5):
        alpha = grey(mycat / f"{i}.png")
        image = painted(*alpha.size, seed=50 + i)
        image.putalpha(alpha)
        image.save(mycat / f"{i}.png")
    assert torch.equal(masks(mycat, mask="alpha").rows(VIEWS), from_files.rows(VIEWS))


def test_masks_beside_pictures_are_the_same_as_those_of_a_folder(mycat: Path, mask_dir: Path) -> None:
    from_folder = masks(mycat, mask_dir=mask_dir)
    for file in mask_dir.iterdir():
        (mycat / f"{file.stem}-masklabel{file.suffix}").write_bytes(file.read_bytes())
    beside = masks(mycat, mask="files")
    assert torch.equal(beside.rows(VIEWS), from_folder.rows(VIEWS))
    assert beside.digest() == from_folder.digest()
    assert beside.summary() == ["the loss counts where the masks beside the pictures are white"]
    (mycat / "3-masklabel.png").unlink()
    with pytest.raises(DataError, match=r"without a mask of the same name: 3\.png") as error:
        masks(mycat, mask="files")
    assert "3-masklabel.png" in str(error.value.fix)


def test_a_mask_turned_by_exif_is_upright(mycat: Path) -> None:
    image = painted(48, 32)
    image.putalpha(Image.fromarray(np.tile(np.arange(48, dtype=np.uint8) * 5, (32, 1))))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows become columns
    for path in mycat.glob("*.png"):
        image.save(path, exif=exif)
    row = masks(mycat, mask="alpha").rows([square_view(0)])[0, 0]
    assert torch.allclose(row, row[:, :1].expand(8, 8), atol=1e-3)  # it now changes downwards only
    assert row[0, 0] < row[-1, 0]


def test_where_masks_are_black_counts_the_floor(mycat: Path, mask_dir: Path) -> None:
    plain, floored = masks(mycat, mask_dir=mask_dir), masks(mycat, mask_dir=mask_dir, unmasked_weight=0.25)
    torch.testing.assert_close(floored.rows(VIEWS), 0.25 + 0.75 * plain.rows(VIEWS))
    assert plain.digest() != floored.digest()


def test_a_smaller_mask_of_the_same_shape_is_enlarged(mycat: Path, mask_dir: Path) -> None:
    whole = masks(mycat, mask_dir=mask_dir).rows([square_view(2)])
    grey(mycat / "2.png").resize((20, 20), Image.Resampling.BOX).save(mask_dir / "2.webp", lossless=True)
    halved = masks(mycat, mask_dir=mask_dir).rows([square_view(2)])
    assert float(F.l1_loss(halved, whole)) < 0.02


def test_the_digest_is_what_it_always_was(mycat: Path, mask_dir: Path) -> None:
    # A run that was begun is known by it.
    files = [mask_dir / (f"{i}.png" if i % 2 else f"{i}.webp") for i in range(5)]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    made = masks(mycat, mask_dir=mask_dir, unmasked_weight=0.25)
    assert made.digests() == digests
    assert made.digest() == content_key("masks", "0.25", *(f"False {digest}" for digest in digests))


def test_the_digest_sees_every_mask(mycat: Path, mask_dir: Path) -> None:
    before = masks(mycat, mask_dir=mask_dir).digest()
    assert before == masks(mycat, mask_dir=mask_dir).digest()
    Image.new("L", (64, 33), 255).save(mask_dir / "3.png")
    assert masks(mycat, mask_dir=mask_dir).digest() != before


def test_a_cache_on_disk_is_found_by_content(mycat: Path, mask_dir: Path, tmp_path: Path) -> None:
    def rows() -> Tensor:
        made = masks(mycat, ContentCache(tmp_path / "cache"), mask_dir=mask_dir)
        made.prepare(squares(5, flip=True))
        return made.rows([square_view(3), square_view(3, mirrored=True)])

    before = rows()
    assert len(entries(tmp_path / "cache")) == 10
    assert torch.equal(rows(), before)
    Image.new("L", (64, 33), 255).save(mask_dir / "3.png")  # the same name, another mask
    assert torch.equal(rows(), torch.ones(2, 1, 8, 8))


def test_a_cache_is_read_and_holds_what_was_prepared(mycat: Path, mask_dir: Path, tmp_path: Path) -> None:
    made = masks(mycat, ContentCache(tmp_path / "cache"), mask_dir=mask_dir)
    made.prepare(squares(5, flip=False))
    assert len(entries(tmp_path / "cache")) == 5
    rows = made.rows([square_view(3)])
    again = masks(mycat, ContentCache(tmp_path / "cache"), mask_dir=mask_dir)
    Image.new("L", (64, 33), 255).save(mask_dir / "3.png")
    assert torch.equal(again.rows([square_view(3)]), rows)  # known by the scanned bytes: not read again
    assert len(entries(tmp_path / "cache")) == 5


def test_rows_of_the_same_bytes_are_told_apart(mycat: Path, mask_dir: Path, tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "cache")
    grey(mycat / "3.png").convert("LA").save(mask_dir / "3.png")  # opaque, and grey
    (mycat / "3.png").write_bytes((mask_dir / "3.png").read_bytes())
    for i in (0, 1, 2, 4):
        painted(32, 32).convert("RGBA").save(mycat / f"{i}.png")
    assert masks(mycat, cache, mask="alpha").rows([square_view(3)]).min() == 1
    pictures = scan_folder(mycat).pictures[3:4]
    fine, coarse = (Masks(pictures, DataSection(mask_dir=mask_dir), n, cache) for n in (4, 8))
    assert fine.rows([square_view(0)]).shape[-2:] == (8, 8)
    assert fine.rows([square_view(0)]).min() < 1
    assert coarse.rows([square_view(0)]).shape[-2:] == (4, 4)


def test_a_coloured_mask_counts_as_its_grey(mycat: Path, mask_dir: Path) -> None:
    Image.new("RGB", (64, 33), (255, 0, 0)).save(mask_dir / "3.png")
    grey_of_red = Image.new("RGB", (1, 1), (255, 0, 0)).convert("L").getpixel((0, 0))
    assert masks(mycat, mask_dir=mask_dir).rows([square_view(3)]).unique().tolist() == pytest.approx(
        [grey_of_red / 255]  # type: ignore[operator]
    )


def test_what_is_told_of_masks(mycat: Path, mask_dir: Path) -> None:
    assert masks(mycat, mask_dir=mask_dir).summary() == [
        f"the loss counts where the masks in {mask_dir} are white"
    ]
    floored = masks(mycat, mask_dir=mask_dir, unmasked_weight=0.25).summary()
    assert floored == [f"the loss counts where the masks in {mask_dir} are white; elsewhere it counts 0.25"]
    for path in mycat.glob("*.png"):
        painted(8, 8).convert("RGBA").save(path)
    assert masks(mycat, mask="alpha").summary() == ["the loss counts where the pictures are opaque"]


def _missing(mask_dir: Path) -> None:
    (mask_dir / "3.png").unlink()
    (mask_dir / "2.webp").unlink()


def _twice(mask_dir: Path) -> None:
    Image.new("L", (64, 33), 255).save(mask_dir / "3.jpg")


def _turned(mask_dir: Path) -> None:
    Image.new("L", (33, 64), 255).save(mask_dir / "3.png")


def _black(mask_dir: Path) -> None:
    Image.new("L", (64, 33)).save(mask_dir / "3.png")


def _transparent(mask_dir: Path) -> None:
    Image.new("LA", (64, 33), (255, 0)).save(mask_dir / "3.png")


def _transparent_in_part(mask_dir: Path) -> None:
    mask = Image.new("LA", (64, 33), (255, 255))
    mask.putpixel((0, 0), (255, 254))
    mask.save(mask_dir / "3.png")


def _broken(mask_dir: Path) -> None:
    (mask_dir / "3.png").write_bytes(b"\x89PNG no more")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_missing, "without a mask of the same name: 2.png, 3.png"),
        (_twice, "Two masks are for the same picture: 3.jpg and 3.png"),
        (_turned, "A mask is 33x64 pixels, but its picture 3.png is 64x33"),
        (_black, "The loss counts nowhere in a picture"),
        (_transparent, "transparent parts"),
        (_transparent_in_part, "transparent parts"),
        (_broken, "A mask cannot be used"),
    ],
)
def test_what_cannot_be_a_mask_is_named(mycat: Path, mask_dir: Path, spoil: Any, said: str) -> None:
    spoil(mask_dir)
    with pytest.raises(DataError, match=said):
        masks(mycat, mask_dir=mask_dir)


def test_pictures_without_a_mask_name_the_setting(mycat: Path, mask_dir: Path) -> None:
    _missing(mask_dir)
    with pytest.raises(DataError) as caught:
        masks(mycat, mask_dir=mask_dir)
    assert caught.value.where == f"data.mask_dir = {mask_dir}"


def test_a_black_mask_is_none_where_black_counts_too(mycat: Path, mask_dir: Path) -> None:
    _black(mask_dir)
    made = masks(mycat, mask_dir=mask_dir, unmasked_weight=0.5)
    assert torch.equal(made.rows([square_view(3)]), torch.full((1, 1, 8, 8), 0.5))


def test_a_square_in_which_nothing_counts_is_told_before_training(mycat: Path, mask_dir: Path) -> None:
    corner = Image.new("L", (64, 33))
    corner.paste(255, (0, 0, 8, 33))  # the middle square begins at 15
    corner.save(mask_dir / "3.png")
    made = masks(mycat, mask_dir=mask_dir)
    with pytest.raises(DataError, match=r"The loss counts nowhere in the center crop[\s\S]*3\.png"):
        made.prepare(squares(5, flip=False))
    assert made.rows([square_view(3, at=(0.0, 0.0))]).any()  # another crop has it
    assert not made.rows([square_view(3, at=(0.0, 0.99))]).any()  # one that has not is no error: it was drawn


def test_pictures_without_alpha_are_named(mycat: Path) -> None:
    with pytest.raises(DataError, match=r"no alpha channel[\s\S]*0\.png"):
        masks(mycat, mask="alpha")


def test_no_such_folder(mycat: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder[\s\S]*data\.mask_dir"):
        masks(mycat, mask_dir=mycat / "nowhere")


def test_a_mask_that_changes_during_the_run_is_told(mycat: Path, mask_dir: Path) -> None:
    made = masks(mycat, mask_dir=mask_dir)
    Image.new("L", (64, 33), 255).save(mask_dir / "3.png")
    with pytest.raises(DataError, match="A mask was changed during the run"):
        made.rows([square_view(3)])


def test_settings_for_pictures_without_masks_have_none() -> None:
    for data in ({"mask": "alpha", "unmasked_weight": 0.1}, {"mask_dir": "masks"}):
        without = DataSection(**data).of_class()  # type: ignore[arg-type]
        assert not without.masked and not list(without.faults())


@pytest.mark.parametrize(
    "how", [{}, {"crop": "random", "cache": False}, {"crop": "random", "color_jitter": 0.5}]
)
def test_a_source_gives_each_row_its_mask(
    mycat: Path, mask_dir: Path, backbone: Backbone, how: dict[str, Any]
) -> None:
    Image.new("L", (8, 8), 255).save(mask_dir / "other.png")
    data = DataSection(mask_dir=mask_dir, flip=True, buckets=False, **how)
    source = PictureSource(scan_folder(mycat), backbone, data, seed=7)
    source.prepare()
    batch = only(source.batches([0, 1, 2, 8]))
    assert batch.mask is not None
    assert batch.mask.shape == (4, 1, *batch.latents.shape[2:])
    pictures = [int(Path(name).stem) for name in batch.names]
    views = source.augmentation.views([0, 1, 2, 8], pictures, (32, 32))
    torch.testing.assert_close(batch.mask, torch.stack([expected(mycat, view) for view in views]))
    assert torch.equal(only(source.batches([8])).mask, batch.mask[3:])  # P1
    assert any("are white" in line for line in source.summary())
    assert any("other.png" in line for line in source.summary())
    plain = PictureSource(scan_folder(mycat), backbone, DataSection(flip=True, buckets=False), seed=7)
    assert only(plain.batches([0])).mask is None
    assert plain.digest() != source.digest()
