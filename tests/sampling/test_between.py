"""Strips between two prompts or seeds, and filmstrips of the denoising."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.backbones import Backbone
from finetune.cli import main
from finetune.diffusion.batch import Conditioning
from finetune.errors import ConfigError, DataError
from finetune.sampling.between import mixed, slerp
from finetune.sampling.film import Film
from finetune.sampling.recorded import read_record
from finetune.sampling.sampler import Sampler

one_family = pytest.mark.parametrize("family", ["sd1"])


def test_noise_goes_along_an_arc() -> None:
    drawn = torch.Generator().manual_seed(0)
    one, other = (torch.randn(4, 8, 8, generator=drawn, dtype=torch.float64) for _ in range(2))
    other *= one.norm() / other.norm()
    angle = math.acos(float((one * other).sum() / one.norm() ** 2))
    for mix in (0.0, 0.25, 0.5, 1.0):
        made = slerp(one, other, mix)
        assert float(made.norm() / one.norm()) == pytest.approx(1)
        cosine = float((made * one).sum() / one.norm() ** 2)
        assert cosine == pytest.approx(math.cos(mix * angle))
    assert torch.equal(slerp(one, one, 0.3), one)


def test_embeddings_go_along_a_line_row_by_row() -> None:
    one = Conditioning(hidden=torch.zeros(2, 3, 4), pooled=torch.ones(2, 5))
    other = Conditioning(hidden=torch.full((2, 3, 4), 2.0), pooled=torch.ones(2, 5))
    made = mixed(one, other, [0.25, 1.0])
    assert made.hidden is not None and made.pooled is not None
    assert made.hidden[0].eq(0.5).all() and made.hidden[1].eq(2).all() and made.pooled.eq(1).all()


@pytest.mark.parametrize("scheduler", ["ddim", "euler-a"])
def test_the_ends_of_a_strip_are_plain_pictures(scheduler: str, backbone: Backbone) -> None:
    sampler = Sampler(backbone)
    how = {"steps": 3, "size": 32, "scheduler": scheduler}
    strip = sampler(["a cat", "a dog"], seed=3, batch_size=1, between=4, to_seed=9, **how)
    ends = [sampler("a cat", seed=3, **how)[0], sampler("a dog", seed=9, **how)[0]]
    pixels = [sample.image.tobytes() for sample in strip]
    assert [pixels[0], pixels[-1]] == [end.image.tobytes() for end in ends]
    assert len(set(pixels)) == 4
    assert [s.info().get("toward") for s in strip[::3]] == [None, None]
    assert strip[1].info()["toward"] == {"prompt": "a dog", "seed": 9, "mix": pytest.approx(1 / 3)}
    assert all("between" not in sample.info() for sample in strip)


@one_family
def test_the_middle_is_sampled_from_the_mean_of_both(backbone: Backbone) -> None:
    """With one prompt for both ends, only the noise differs: half of the way it is that of the formula."""
    sampler = Sampler(backbone)
    how = {"steps": 2, "size": 32, "scheduler": "ddim", "guidance": 1.0}
    middle = sampler("a cat", seed=3, between=3, to_seed=9, batch_size=1, **how)[1]
    shape = (backbone.latent_channels, 8, 8)
    noise = [torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)) for seed in (3, 9)]
    angle = torch.arccos((noise[0] * noise[1]).sum() / (noise[0].norm() * noise[1].norm()))
    latents = (noise[0] + noise[1]) * (angle / 2).sin() / angle.sin()
    pipeline = backbone.pipeline()
    from finetune.sampling.schedulers import make_scheduler

    pipeline.scheduler = make_scheduler("ddim", backbone.scheduler)
    theirs = pipeline(
        "a cat", num_inference_steps=2, guidance_scale=1.0, height=32, width=32, latents=latents
    )
    error = np.abs(np.asarray(theirs.images[0]).astype(int) - np.asarray(middle.image).astype(int))
    assert error.max() <= 1


@pytest.mark.parametrize(
    "given", [(["a"], {}), (["a", "b", "c"], {}), (["a", "b"], {"num": 2}), (["a", "b"], {"between": 1})]
)
@one_family
def test_a_strip_needs_two_ends(
    family: str, given: tuple[list[str], dict[str, int]], backbone: Backbone
) -> None:
    prompts, changes = given
    with pytest.raises(ConfigError):
        Sampler(backbone)(prompts, **({"between": 3, "steps": 2, "size": 32} | changes))  # type: ignore[arg-type]


@one_family
def test_a_picture_within_a_strip_says_that_it_cannot_be_made_alone(
    backbone: Backbone, tmp_path: Path
) -> None:
    strip = Sampler(backbone)(["a cat", "a dog"], between=3, steps=1, size=32)
    with pytest.raises(DataError, match="strip between two"):
        read_record(strip[1].save(tmp_path / "x.png"))
    assert read_record(strip[0].save(tmp_path / "y.png")).prompt == "a cat"


def test_a_strip_without_ends_is_refused_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "a cat", "--model", "nowhere", "--set", "sampling.between=3"]) == 2
    assert "A strip is between two prompts" in capsys.readouterr().err


@pytest.mark.parametrize("hires", [None, 2.0])
def test_a_filmstrip_ends_with_the_picture_and_changes_nothing(
    hires: float | None, backbone: Backbone
) -> None:
    """Euler's last step goes to the clean latents that are predicted there."""
    sampler = Sampler(backbone)
    how = {"steps": 6, "size": 32, "scheduler": "euler", "num": 2, "hires": hires}
    plain, film = sampler("a cat", **how), sampler("a cat", frames=4, **how)
    total = 6 if hires is None else 9
    for one, other in zip(plain, film, strict=True):
        assert one.image.tobytes() == other.image.tobytes() and not one.frames
        steps = [step for step, _ in other.frames]
        assert len(steps) == 4 and steps[0] == 1 and steps[-1] == total
        last = np.asarray(other.frames[-1][1]).astype(int)
        assert np.abs(last - np.asarray(other.image).astype(int)).max() <= 1
        assert other.frames[0][1].tobytes() != other.frames[-1][1].tobytes()


def test_a_film_has_no_more_frames_than_steps() -> None:
    class Scheduler:
        alphas_cumprod = torch.linspace(0.99, 0.01, 1000)

        class config:  # noqa: N801
            prediction_type = "sample"

    film = Film(frames=9, total=3)
    for step in range(3):
        film.see(
            torch.full((1, 1, 1, 1), float(step)), torch.zeros(1, 1, 1, 1), torch.tensor(500.5), Scheduler()
        )
    assert [(step, float(clean)) for step, clean in film.kept] == [(1, 0.0), (2, 1.0), (3, 2.0)]


@one_family
def test_the_command_writes_both(tiny_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(tiny_folder), "--size", "32", "--steps", "3", "--set", "sampling.filmstrip=3"]
    assert main(["sample", "a cat", *flags]) == 0
    assert "A filmstrip is beside each." in capsys.readouterr().out
    assert sorted(path.name for path in Path("samples").iterdir()) == ["a-cat-0-filmstrip.png", "a-cat-0.png"]
