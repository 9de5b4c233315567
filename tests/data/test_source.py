"""Batches: what is in them, and that nothing but (seed, sample number) decides it."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from finetune.config import CaptionsSection, DataSection
from finetune.data import PictureSource, scan_folder
from finetune.data.preprocess import cut_out, place
from finetune.data.texts import TokenTexts
from finetune.diffusion.batch import Batch, Conditioning
from finetune.diffusion.random import normal, picture_index, uniform
from tests.data.conftest import painted
from tests.tiny import only

if TYPE_CHECKING:
    from finetune.backbones import Backbone


def source(
    mycat: Path, backbone: Backbone, seed: int = 7, train_text: bool = False, **data: Any
) -> PictureSource:
    settings = DataSection(**{"buckets": False} | data)
    made = PictureSource(scan_folder(mycat), backbone, settings, seed, train_text)
    made.prepare()
    return made


def assert_same(a: Batch, b: Batch, exactly: bool = True) -> None:
    tolerance = {"rtol": 0.0, "atol": 0.0} if exactly else {"rtol": 1e-5, "atol": 1e-5}
    assert (a.numbers, a.names) == (b.numbers, b.names)
    torch.testing.assert_close(a.latents, b.latents, **tolerance)
    for field in fields(Conditioning):
        x, y = getattr(a.conditioning, field.name), getattr(b.conditioning, field.name)
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(x, y, **tolerance)


def joined(batches: list[Batch]) -> Batch:
    return Batch(
        numbers=tuple(n for b in batches for n in b.numbers),
        latents=torch.cat([b.latents for b in batches]),
        conditioning=Conditioning.stack([b.conditioning for b in batches]),
        weight=torch.cat([b.weight for b in batches]),
        names=tuple(n for b in batches for n in b.names),
    )


def test_a_row_is_what_diffusers_makes_of_the_picture(mycat: Path, backbone: Backbone) -> None:
    made = source(mycat, backbone)
    batch = only(made.batches([0, 9]))
    assert made.size == backbone.native_size == 32
    for row, number in enumerate([0, 9]):
        picture = made.folder.pictures[picture_index(7, number, 5)]
        pixels = cut_out(picture.read(), place((picture.height, picture.width), (32, 32)))
        with torch.no_grad():
            posterior = backbone.vae.encode(pixels[None]).latent_dist
            hidden, _ = backbone.encode_text(backbone.tokenize([picture.caption]))
        noise = normal(7, [number], "latents", posterior.mean.shape[1:])
        expected = (posterior.mean + posterior.std * noise) * backbone.vae.config.scaling_factor
        torch.testing.assert_close(batch.latents[row : row + 1], expected)
        assert batch.conditioning.hidden is not None
        torch.testing.assert_close(batch.conditioning.hidden[row : row + 1], hidden)
        assert batch.names[row] == str(picture.origin)
    assert batch.weight.tolist() == [1, 1]
    assert (batch.conditioning.time_ids is None) == (backbone.family != "sdxl")


@pytest.mark.parametrize("family", ["sdxl"])
def test_sdxl_is_told_sizes_and_corner(mycat: Path, backbone: Backbone) -> None:
    made = source(mycat, backbone, flip=True)
    numbers = range(40)
    batch = only(made.batches(numbers))
    assert batch.conditioning.time_ids is not None
    rows = zip(batch.names, batch.conditioning.time_ids.int().tolist(), strict=True)
    told = {(Path(name).name, *ids) for name, ids in rows}
    # height, width, top, left, target height, target width; 64x33 becomes 62x32, 33x64 32x62.
    assert told == {
        ("0.png", 32, 48, 0, 8, 32, 32),
        ("1.png", 48, 32, 8, 0, 32, 32),
        ("2.png", 40, 40, 0, 0, 32, 32),
        ("3.png", 33, 64, 0, 15, 32, 32),
        ("4.png", 64, 33, 15, 0, 32, 32),
    }


@pytest.mark.parametrize("family", ["sdxl"])
def test_random_crops_lie_where_drawn(mycat: Path, backbone: Backbone) -> None:
    batch = only(source(mycat, backbone, crop="random", cache=False).batches(range(10)))
    assert batch.conditioning.time_ids is not None
    corners = [tuple(ids[2:4]) for ids in batch.conditioning.time_ids.int().tolist()]
    # Places downwards and to the right: of 48x32 pixels 1 and 17; 64x33 become 62x32, so 1 and 31.
    places = {"0.png": (1, 17), "1.png": (17, 1), "2.png": (1, 1), "3.png": (1, 31), "4.png": (31, 1)}
    drawn = zip(uniform(7, range(10), "crop top"), uniform(7, range(10), "crop left"), strict=True)
    for name, corner, (top, left) in zip(batch.names, corners, drawn, strict=True):
        down, right = places[Path(name).name]
        assert corner == (int(top * down), int(left * right))
    assert len(set(corners)) > 5


def test_every_epoch_shows_every_picture_once(mycat: Path, backbone: Backbone) -> None:
    made = source(mycat, backbone)
    orders = [only(made.batches(range(5 * e, 5 * e + 5))).names for e in range(4)]
    assert all(len(set(order)) == 5 for order in orders)
    assert len(set(orders)) > 1


@pytest.mark.parametrize("train_text", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        {"flip": True, "caption_dropout": 0.3},
        {"flip": True, "caption_dropout": 0.3, "crop": "random", "cache": False},
    ],
    ids=["cached", "on the fly"],
)
def test_splitting_a_batch_changes_nothing(
    mycat: Path, backbone: Backbone, train_text: bool, data: dict[str, Any]
) -> None:
    made = source(mycat, backbone, train_text=train_text, **data)
    whole = only(made.batches(range(100, 108)))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    pieces = joined([only(made.batches([n])) for n in range(100, 108)])
    assert torch.equal(state, torch.get_rng_state())
    assert_same(whole, pieces, exactly=data.get("cache", True))
    again = source(mycat, backbone, train_text=train_text, **data)
    only(again.batches([3]))
    assert_same(whole, only(again.batches(range(100, 108))))
    other = only(source(mycat, backbone, seed=8, train_text=train_text, **data).batches(range(100, 108)))
    assert not torch.equal(other.latents, whole.latents)


@pytest.mark.parametrize("family", ["sd1"])
def test_cached_and_on_the_fly_are_the_same(mycat: Path, backbone: Backbone, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"flip": True, "caption_dropout": 0.5}
    numbers = list(range(16))
    live = only(source(mycat, backbone, cache=False, **settings).batches(numbers))
    memory = only(source(mycat, backbone, **settings).batches(numbers))
    assert_same(live, memory, exactly=False)
    disk = source(mycat, backbone, cache_dir=tmp_path / "cache", **settings)
    assert_same(only(disk.batches(numbers)), memory)
    backbone.encode_pixels = None  # type: ignore[method-assign,assignment]
    backbone.encode_text = None  # type: ignore[method-assign,assignment]
    assert_same(
        only(source(mycat, backbone, cache_dir=tmp_path / "cache", **settings).batches(numbers)), memory
    )


@pytest.mark.parametrize("family", ["sd1"])
def test_shares_of_flips_crops_and_empty_captions(mycat: Path, backbone: Backbone) -> None:
    made = PictureSource(
        scan_folder(mycat),
        backbone,
        DataSection(flip=True, caption_dropout=0.25, crop="random", cache=False),
        seed=0,
    )
    numbers, pictures = range(2000), [0] * 2000
    views = made.augmentation.views(numbers, pictures, (32, 32))
    assert 0.45 < sum(v.mirrored for v in views) / 2000 < 0.55
    places = torch.tensor([v.at for v in views])
    assert torch.allclose(places.mean(0), torch.tensor([0.5, 0.5]), atol=0.03)
    assert abs(torch.corrcoef(places.T)[0, 1]) < 0.07
    empty = made._drawn_captions(numbers, pictures).count("") / 2000
    assert 0.22 < empty < 0.28


@pytest.mark.parametrize("family", ["sd1"])
def test_a_sample_draws_one_of_several_captions(mycat: Path, backbone: Backbone) -> None:
    (mycat / "0.txt").write_text("\n".join("abc"))
    data = DataSection(captions="lines", buckets=False)
    made = PictureSource(scan_folder(mycat, None, data), backbone, data, 7)
    made.prepare()
    assert made.captions() == ["a", "b", "c", "a red cat", "a photo of mycat", "a blue dog"]
    numbers = range(600)
    drawn = made._drawn_captions(numbers, [0] * 600)
    draws = uniform(7, numbers, "caption").tolist()
    assert drawn == [("a" if u < 1 / 3 else "b" if u < 2 / 3 else "c") for u in draws]
    assert all(150 < drawn.count(text) < 250 for text in "abc")
    assert made._drawn_captions(numbers[50:60], [0] * 10) == drawn[50:60]
    assert made._drawn_captions([1, 2], [1, 3]) == ["a red cat", "a blue dog"]
    backbone.free_encoders()  # every caption is in the cache
    (batch,) = made.batches(range(10))
    hidden = batch.conditioning.hidden
    assert hidden is not None and hidden.shape[0] == 10


@pytest.mark.parametrize("family", ["sd1"])
def test_a_caption_given_twice_is_drawn_twice_as_often(mycat: Path, backbone: Backbone) -> None:
    (mycat / "0.txt").write_text("a\nb\na")
    data = DataSection(captions="lines", buckets=False)
    made = PictureSource(scan_folder(mycat, None, data), backbone, data, 7)
    assert made.captions().count("a") == 1  # encoded once
    drawn = made._drawn_captions(range(900), [0] * 900)
    assert abs(drawn.count("a") - 600) < 4 * (900 * 2 / 9) ** 0.5  # four standard deviations


@pytest.mark.parametrize("family", ["sd1"])
@pytest.mark.parametrize("train_text", [False, True])
def test_varied_captions_are_computed_live_and_not_kept(
    mycat: Path, backbone: Backbone, train_text: bool
) -> None:
    (mycat / "0.txt").write_text("sks cat, hat, snow, left")
    section = CaptionsSection(shuffle=True, keep_tags=1, prefix="photo:")
    data = DataSection(buckets=False, resolution=32, flip=True)
    made = PictureSource(scan_folder(mycat, "x"), backbone, data, 7, train_text, captions=section)
    made.prepare()
    assert any("captions say left or right: 0.png" in line for line in made.summary())
    numbers = range(40)
    (batch,) = made.batches(numbers)
    texts = made._drawn_captions(numbers, [made.items[made.order.item(n)][0] for n in numbers])
    ours = [text for text in texts if "sks" in text]
    assert len(set(ours)) > 3
    assert all(text.startswith("photo: sks cat, ") for text in ours)
    tokens = backbone.tokenize(texts)
    if train_text:
        assert torch.equal(batch.conditioning.tokens, tokens)  # type: ignore[arg-type]
    else:
        torch.testing.assert_close(batch.conditioning.hidden, backbone.encode_text(tokens)[0])
    assert isinstance(made.texts, TokenTexts) == train_text
    kept = made.texts._rows if isinstance(made.texts, TokenTexts) else made.texts._encoded._cache
    assert not kept


@pytest.mark.parametrize("family", ["sd1"])
def test_the_record_has_relative_names_and_all_captions(mycat: Path, backbone: Backbone) -> None:
    (mycat / "deep" / "er").mkdir(parents=True)
    (mycat / "3.png").rename(mycat / "deep" / "er" / "3.png")
    (mycat / "0.txt").write_text("one\ntwo")
    data = DataSection(captions="lines")
    record = PictureSource(scan_folder(mycat, "x", data), backbone, data, 0).record()
    assert [(entry["file"], entry["caption"]) for entry in record] == [
        ("0.png", "one\ntwo"),
        ("1.png", "a red cat"),
        ("2.png", "x"),
        ("4.png", "x"),
        ("deep/er/3.png", "x"),
    ]


@pytest.mark.parametrize("family", ["sd1"])
def test_many_skipped_files_are_told_in_few_lines(mycat: Path, backbone: Backbone) -> None:
    for i in range(5):
        (mycat / f"bad-{i:02}.jpg").write_bytes(b"")
    few = PictureSource(scan_folder(mycat, "x"), backbone, DataSection(), 0).summary()
    assert not any("skipped.txt" in line for line in few)
    for i in range(5, 21):
        (mycat / f"bad-{i:02}.jpg").write_bytes(b"")
    lines = PictureSource(scan_folder(mycat, "x"), backbone, DataSection(), 0).summary()
    names = ", ".join(f"bad-{i:02}.jpg" for i in range(5))
    assert lines[1] == f"skipped {names} and 16 more: the file is empty"
    assert lines[2] == "every file that is not used is named in skipped.txt in the run folder"


@pytest.mark.parametrize("family", ["sd1"])
def test_progress_counts_pictures_and_captions(mycat: Path, backbone: Backbone) -> None:
    seen: list[tuple[int, int]] = []
    made = PictureSource(scan_folder(mycat), backbone, DataSection(flip=True, caption_dropout=0.1), 0)
    made.prepare(lambda *at: seen.append(at))
    assert seen[-1] == (14, 14)  # 5 pictures and their mirror images, 3 captions and the empty one
    assert seen == sorted(seen)


@pytest.mark.parametrize("family", ["sd1"])
def test_summary_names_everything(mycat: Path, backbone: Backbone) -> None:
    (mycat / "2.txt").write_text("cat " * 200 + "at the very end")
    (mycat / "bad.jpg").write_bytes(b"")
    made = PictureSource(scan_folder(mycat, "x"), backbone, DataSection(resolution=40, buckets=False), 0)
    lines = made.summary()
    assert lines[0] == f"5 pictures from {mycat}, at 40x40 pixels"
    assert lines[1] == "skipped bad.jpg: the file is empty"
    assert lines[2] == (
        "enlarged, because smaller than they are trained at: 0.png (48x32 to 40x40), 1.png (32x48 to 40x40), "
        "3.png (64x33 to 40x40), 4.png (33x64 to 40x40)"
    )
    assert lines[3] == "cropped by more than 10%: 4.png (49%), 3.png (49%), 1.png (33%), 0.png (33%)"
    assert lines[4].startswith("caption truncated")
    assert lines[4].endswith('at the very end" (2.png)')
    assert lines[5] == '3 pictures with a caption, the others get the prompt "x"'
    assert made.captions() == ["x", "a red cat", "cat " * 200 + "at the very end", "a blue dog"]


@pytest.mark.parametrize("family", ["sd1"])
def test_the_digest_is_of_contents(mycat: Path, backbone: Backbone) -> None:
    digest = source(mycat, backbone).digest()
    assert digest == source(mycat, backbone, seed=3, flip=True).digest()
    (mycat / "4.png").rename(mycat / "5.png")
    assert digest == source(mycat, backbone).digest()
    (mycat / "1.txt").write_text("a green cat")
    changed = source(mycat, backbone).digest()
    painted(48, 32, 50).save(mycat / "0.png")
    assert len({digest, changed, source(mycat, backbone).digest()}) == 3


@pytest.mark.parametrize("family", ["sd1"])
def test_trained_encoders_get_the_tokens_of_captions(mycat: Path, backbone: Backbone) -> None:
    made = source(mycat, backbone, train_text=True, caption_dropout=0.1)
    batch = only(made.batches(range(400)))
    assert batch.conditioning.tokens is not None and batch.conditioning.hidden is None
    own = {str(p.origin): backbone.tokenize([p.caption])[0] for p in made.folder.pictures}
    empty = backbone.tokenize([""])[0]
    dropped = 0
    for name, tokens in zip(batch.names, batch.conditioning.tokens, strict=True):
        dropped += torch.equal(tokens, empty)
        assert torch.equal(tokens, empty) or torch.equal(tokens, own[name])
    assert 20 < dropped < 60


@pytest.mark.parametrize("family", ["sd1"])
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_cached_row_costs_less_than_a_millisecond(
    mycat: Path, backbone: Backbone, tmp_path: Path, kind: str
) -> None:
    made = source(mycat, backbone, flip=True, cache_dir=tmp_path / "cache" if kind == "disk" else None)
    only(made.batches([0]))
    seconds = []
    for repeat in range(5):
        start = time.process_time()  # of this process alone: the machine may be busy
        only(made.batches(range(64 * repeat, 64 * repeat + 64)))
        seconds.append((time.process_time() - start) / 64)
    assert min(seconds) < 1e-3


def test_preserved_samples_get_their_prompts(mycat: Path, backbone: Backbone) -> None:
    prompts = ["a photo of a cat", "a dog"]
    asked: Any = {"preserve": prompts, "preserve_share": 0.25}
    made = PictureSource(scan_folder(mycat), backbone, DataSection(buckets=False), 7, True, **asked)
    made.prepare()
    batch = only(made.batches(range(400)))
    assert batch.preserved is not None
    assert 70 <= int(batch.preserved.sum()) <= 130
    assert batch.conditioning.tokens is not None
    wanted = {tuple(row) for row in backbone.tokenize(prompts)[:, 0].tolist()}
    seen = [tuple(row) for row in batch.conditioning.tokens[batch.preserved][:, 0].tolist()]
    assert set(seen) == wanted
    assert not wanted & {tuple(row) for row in batch.conditioning.tokens[~batch.preserved][:, 0].tolist()}
    # The same pictures, noised latents and all; only what is said about them differs.
    plain = only(source(mycat, backbone, train_text=True).batches(range(400)))
    assert plain.preserved is None
    assert torch.equal(plain.latents, batch.latents)
    parts = [only(made.batches([n])).preserved for n in range(20)]
    assert torch.equal(torch.cat([p for p in parts if p is not None]), batch.preserved[:20])
