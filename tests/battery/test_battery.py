"""Everything that can be trained, on every family, through one and the same set of tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from finetune.backbones import load_backbone
from finetune.config import ModelSection
from finetune.diffusion.batch import Conditioning
from finetune.recipes.run import Run
from tests.battery.cases import CASES, Case, put_together
from tests.tiny import load_state

Assemble = Callable[..., Run]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """Runs the test once for each row of the table."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def made(case: Case, tiny_folder: Path, pictures: Path, here: Path) -> Assemble:
    """Puts the case's run together, in a folder of its own for each name; class pictures go beside it."""
    return lambda name="run", *changes: put_together(case, tiny_folder, pictures, here / name, *changes)


WORDS = ("a cat", "a dog on snow")  # every model of the family knows them


def question(this: Run, words: Sequence[str]) -> tuple[Tensor, Tensor, Conditioning]:
    """Noisy latents, timesteps and two prompts."""
    backbone, size = this.backbone, this.backbone.native_size // this.backbone.latent_factor
    latents = torch.randn(2, backbone.latent_channels, size, size, generator=torch.Generator().manual_seed(3))
    conditioning = backbone.conditioning(list(words))
    control = torch.rand(
        2, 3, backbone.native_size, backbone.native_size, generator=torch.Generator().manual_seed(4)
    )
    return latents, torch.tensor([20, 700]), replace(conditioning, control=control)


@torch.no_grad()
def answer(this: Run, words: Sequence[str] = WORDS) -> Tensor:
    """What the adapter predicts, without dropout."""
    this.adapter.eval()
    prediction: Tensor = this.adapter(*question(this, words))
    return prediction


def loss(this: Run, numbers: range = range(2)) -> Tensor:
    """The mean loss of some samples."""
    return this.trainer.objective(this.adapter, this.source.batch(numbers)).mean()


def test_attaching_changes_nothing(case: Case, made: Assemble, tiny_folder: Path) -> None:
    this = made()
    plain = load_backbone(ModelSection(name=str(tiny_folder)))
    noisy, timesteps, _ = question(this, WORDS)
    with torch.no_grad():
        before = plain.predict(noisy, timesteps, plain.conditioning(list(WORDS)))
    if case.exact:
        assert torch.equal(answer(this), before)
    else:
        torch.testing.assert_close(answer(this), before, rtol=1e-4, atol=1e-5)


def test_training_moves_what_is_trained_and_nothing_else(case: Case, made: Assemble) -> None:
    this = made()
    trained = this.adapter.trained()
    ours = {id(parameter) for parameter in trained.values()}
    backbone = this.backbone
    base = [
        (parameter, parameter.detach().clone())
        for module in (backbone.unet, backbone.vae, *backbone.text_encoders)
        for parameter in module.parameters()
        if id(parameter) not in ours
    ]
    before = this.adapter.state()
    this.trainer.run()
    for parameter, old in base:
        assert torch.equal(parameter, old)
    after = this.adapter.state()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    # SDXL leaves the last layers of its first text encoder unread, so not every weight has a gradient.
    assert len(moved) > 0.75 * len(before)


def test_the_loss_of_a_repeated_batch_falls(case: Case, made: Assemble) -> None:
    this = made()
    rate = 1e-3 if case.kind in ("full", "dreambooth") else 1e-2
    optimizer = torch.optim.AdamW(this.adapter.trained().values(), lr=rate)
    this.adapter.train()
    first = loss(this).item()
    for _ in range(12):
        loss(this).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss(this).item() < first


def test_a_saved_state_is_the_same_adapter(made: Assemble) -> None:
    one, other = made(), made("other")
    one.trainer.run()
    words = one.source.captions()[:1] * 2
    assert not torch.equal(answer(one, words), answer(other, words))
    load_state(other.adapter, one.adapter.state())
    assert torch.equal(answer(one, words), answer(other, words))


def test_resuming_gives_the_same_bits(made: Assemble) -> None:
    straight = made("straight")
    straight.trainer.run()
    made("broken", "training.steps=2").trainer.run()
    resumed = made("broken")
    assert resumed.trainer.resume()
    assert resumed.trainer.step == 2
    resumed.trainer.run()
    states = straight.adapter.state(), resumed.adapter.state()
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_gradient_checkpointing_changes_no_gradient(made: Assemble) -> None:
    gradients: list[dict[str, Tensor | None]] = []
    for on in ("false", "true"):
        this = made(on, f"training.gradient_checkpointing={on}")
        this.trainer.model.train()
        loss(this).backward()
        gradients.append({name: p.grad for name, p in this.adapter.trained().items()})
    plain, again = gradients
    assert any(g is not None and bool(g.any()) for g in plain.values())
    for name, gradient in plain.items():
        if gradient is None:
            assert again[name] is None
        else:
            torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_average_is_its_closed_form(made: Assemble) -> None:
    """Step t keeps min(decay, t/(9 + t)) of the average; the first takes the parameters as they are."""
    decay = 0.15
    this = made("run", "training.ema=true", f"training.ema_decay={decay}", "training.checkpoint_every=1")
    expected = this.adapter.state()
    this.trainer.run()
    assert this.trainer.average is not None
    for step in range(1, 5):
        keep = min(decay, step / (9 + step)) if step > 1 else 0.0
        for name, value in weights(this, step).items():
            expected[name] = keep * expected[name] + (1 - keep) * value
    for name, value in this.trainer.average.values.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def weights(this: Run, step: int) -> dict[str, Tensor]:
    """The trained parameters in a checkpoint."""
    return dict(load_file(this.folder.checkpoint(step) / "weights.safetensors"))
