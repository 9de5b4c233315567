"""A small Stable Diffusion from nothing: both stages, stopped and taken up, and what comes out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from finetune.backbones.untrained import make_autoencoder, make_tokenizer, untrained_backbone
from finetune.backbones.whitening import whiten
from finetune.cli import main
from finetune.config.pretrain import SIZES, ArchitectureSection
from finetune.data import scan_folder
from finetune.data.pixels import PixelSource
from finetune.errors import ConfigError, Interrupted
from finetune.recipes import build, load_recipe
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import run
from finetune.training import Trainer
from tests.conftest import draw_pictures
from tests.tiny import only

SMALL = (
    *("architecture.autoencoder_channels=[16, 32]", "architecture.unet_channels=[16, 32]"),
    *("architecture.text_width=32", "architecture.text_layers=1", "architecture.tokens=16"),
    *("data.resolution=32", "autoencoder.steps=4", "autoencoder.batch_size=2"),
    *("training.steps=4", "training.batch_size=2", "training.checkpoint_every=2", "training.log_every=1"),
    *("preview.every=2", "preview.num=1", "preview.steps=2", "optimizer.warmup_steps=0"),
)
pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    folder = draw_pictures(tmp_path)
    for name, words in (("0", "a red cat on snow"), ("1", "a blue dog on snow"), ("2", "a red dog")):
        (folder / f"{name}.txt").write_text(words)
    (folder / "broken.png").unlink()
    return folder


def train(folder: Path, *changes: str, resume: bool = False) -> tuple[Path, str]:
    said: list[str] = []
    given = {change.partition("=")[0]: change for change in (*SMALL, *changes)}
    settings = [Setting("data.data_dir", folder, "--data-dir"), *map(parse_set, given.values())]
    return run(build("pretrain", settings), resume=resume, tell=said.append).folder, "\n".join(said)


def content(folder: Path) -> dict[str, str]:
    """A hash of every file but the metrics, which tell how fast it was, and the recipe's comment."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.name != "metrics.jsonl"]
    bodies = {f: f.read_bytes().partition(b"repeats it.")[2] or f.read_bytes() for f in files}
    return {str(f.relative_to(folder)): hashlib.sha256(body).hexdigest() for f, body in bodies.items()}


def test_both_stages_leave_a_model_that_diffusers_loads(captioned: Path) -> None:
    folder, said = train(captioned, "data.caption_dropout=0.5")
    assert folder == Path("runs/mycat-pretrain")
    assert "Training the autoencoder for 4 steps" in said and "Training 4 steps" in said
    assert (folder / "autoencoder/samples/step-000004.png").is_file()
    assert (folder / "samples/step-000004.png").is_file()
    pipe: Any = StableDiffusionPipeline.from_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a red cat", num_inference_steps=2).images[0].size == (32, 32)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.tokenizer.model_max_length == 16
    # What was trained is in it: nothing is as it was drawn.
    drawn = untrained_backbone(load_recipe(folder / "recipe.yaml").architecture, [], 32, "epsilon", 0)  # type: ignore[attr-defined]
    for mine, before in ((pipe.vae, drawn.vae), (pipe.unet, drawn.unet)):
        pairs = zip(mine.parameters(), before.parameters(), strict=True)
        assert not any(torch.equal(one, other) for one, other in pairs)
    assert main(["sample", "a red cat", "--model", str(folder / "model"), "--steps", "1"]) == 0


@pytest.mark.parametrize("stage", ["autoencoder", "unet"])
def test_a_run_stopped_in_either_stage_ends_in_the_same_bytes(
    stage: str, captioned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = train(captioned, "output.dir=whole", "output.name=mycat")
    save = Trainer.save

    def save_and_stop(trainer: Trainer[Any]) -> None:
        save(trainer)
        if trainer.step == 2 and (trainer.folder.path.name == "autoencoder") == (stage == "autoencoder"):
            raise Interrupted("as by Ctrl-C")

    monkeypatch.setattr(Trainer, "save", save_and_stop)
    with pytest.raises(Interrupted):
        train(captioned, "output.dir=stopped", "output.name=mycat")
    monkeypatch.setattr(Trainer, "save", save)
    folder, said = train(captioned, "output.dir=stopped", "output.name=mycat", resume=True)
    assert ("The autoencoder is already trained" in said) == (stage == "unet")
    assert content(folder) == content(whole)
    with pytest.raises(ConfigError, match=r"autoencoder\.l1_weight"):
        train(captioned, "output.dir=stopped", "autoencoder.l1_weight=0.2", "training.steps=5", resume=True)


def test_more_pictures_for_the_autoencoder_alone(captioned: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    more = draw_pictures(tmp_path / "more")
    _, said = train(captioned, f"autoencoder.data_dir={more}", "training.steps=1", "autoencoder.steps=1")
    assert "out of 6," in said and "3 pictures from" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.name=sd15", "model.name has no effect on pretrain"),
        ("output.single_file=true", "output.single_file has no effect on pretrain"),
        ("data.resolution=40", "cannot be halved 4 times"),
        ("architecture.unet_channels=[16, 24]", "architecture.unet_channels must be a multiple of 16"),
        ("architecture.size=huge", "architecture.size must be one of tiny, small, medium"),
        ("autoencoder.steps=0", "autoencoder.steps must be at least 1"),
    ],
)
def test_wrong_settings_are_told(change: str, words: str) -> None:
    settings = [Setting("data.data_dir", "x", "--data-dir"), parse_set(change)]
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        build("pretrain", settings)


@pytest.mark.parametrize("size", SIZES)
def test_the_sizes_have_as_many_parameters_as_they_say(size: Any) -> None:
    with torch.device("meta"):
        backbone = untrained_backbone(ArchitectureSection(size=size), ["a cat"], 64, "epsilon", 0)
    parts = (backbone.vae, backbone.unet, *backbone.text_encoders)
    millions = sum(p.numel() for part in parts for p in part.parameters()) / 1e6
    told = str(ArchitectureSection.model_fields["size"].description).partition(f"{size}: ")[2].split()[0]
    assert millions == pytest.approx(float(told), rel=0.05)


def test_drawn_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (
        untrained_backbone(ArchitectureSection(), ["a cat"], 64, "epsilon", seed) for seed in (1, 1, 2)
    )
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_tokenizer_knows_its_captions_and_takes_any_text() -> None:
    tokenizer = make_tokenizer(["a red cat on snow", "a blue cat on snow"] * 9, 900, 32)
    assert tokenizer.tokenize("A red cat on snow") == ["a</w>", "red</w>", "cat</w>", "on</w>", "snow</w>"]
    for text in ("mycat", "Zürich", "猫", "🐈", "sks!"):
        tokens = tokenizer.tokenize(text)
        assert tokens and tokenizer.eos_token not in tokens
    assert make_tokenizer(["abc " * 50], 600, 16).model_max_length == 16


def test_whitening_changes_the_latents_and_not_the_pictures() -> None:
    torch.manual_seed(0)
    vae = make_autoencoder(SIZES["tiny"], 64).eval()
    pictures = 2 * torch.rand(24, 3, 64, 64) - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(pictures[:4]).latent_dist.mean).sample
        whiten(vae, pictures.split(8))
        posterior = vae.encode(pictures).latent_dist
        after = vae.decode(posterior.mean[:4]).sample
    assert torch.allclose(before, after, atol=1e-4)
    drawn = (posterior.mean + posterior.std * torch.randn(posterior.mean.shape)).transpose(0, 1).flatten(1)
    assert drawn.mean(1).abs().max() < 0.05
    assert (torch.cov(drawn) - torch.eye(len(drawn))).abs().max() < 0.05


@pytest.mark.parametrize("cache", [True, False])
def test_pixels_are_the_pictures_and_half_of_them_mirrored(cache: bool, captioned: Path) -> None:
    pictures = scan_folder(captioned).pictures
    source = PixelSource(pictures, 32, seed=3, cache=cache)
    source.prepare()
    plain = source.pixels(range(3))
    rows = only(source.batches(range(60)))
    names = [str(p.origin) for p in pictures]
    mirrored = 0
    for name, pixels in zip(rows.names, rows.pixels, strict=True):
        original = plain[names.index(name)]
        mirrored += int(torch.equal(pixels, original.flip(-1)))
        assert torch.equal(pixels, original) or torch.equal(pixels, original.flip(-1))
    assert 15 < mirrored < 45
    # The same samples whatever they come with (P1).
    assert torch.equal(only(source.batches([7])).pixels[0], rows.pixels[7])
