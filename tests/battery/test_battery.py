"""Everything that can be trained, on every family, through one and the same set of tests."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

import torch
from safetensors.torch import load_file
from torch import Tensor

from finetune.backbones import Backbone
from finetune.diffusion.batch import Conditioning
from finetune.recipes.run import Run
from tests.battery.cases import DECAY, Case, Trained
from tests.battery.conftest import Assemble
from tests.tiny import Family, load_state, only

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
    return this.trainer.objective(this.adapter, only(this.source.batches(numbers))).mean()


def test_attaching_changes_nothing(
    case: Case, family: Family, trained: Trained, loaded: dict[str, Backbone]
) -> None:
    plain = loaded[family]
    with trained.untrained() as this:
        noisy, timesteps, _ = question(this, WORDS)
        with torch.no_grad():
            before = plain.predict(noisy, timesteps, plain.conditioning(list(WORDS)))
        if case.exact:
            assert torch.equal(answer(this), before)
        else:
            torch.testing.assert_close(answer(this), before, rtol=1e-4, atol=1e-5)


def test_training_moves_what_is_trained_and_nothing_else(trained: Trained) -> None:
    for parameter, old in trained.base:
        assert torch.equal(parameter, old)
    before, after = trained.before, trained.after
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    # SDXL leaves the last layers of its first text encoder unread, so not every weight has a gradient.
    assert len(moved) > 0.75 * len(before)


def test_the_loss_of_a_repeated_batch_falls(case: Case, trained: Trained) -> None:
    rate = 1e-2 if case.kind in ("lora", "embedding", "controlnet") else 1e-3
    with trained.untrained() as this:
        optimizer = torch.optim.AdamW(this.adapter.trained().values(), lr=rate)
        this.adapter.train()
        first = loss(this).item()
        for _ in range(5):
            loss(this).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert loss(this).item() < first


def test_a_saved_state_is_the_same_adapter(trained: Trained, made: Assemble) -> None:
    one, other = trained.run, made()
    words = one.source.captions()[:1] * 2
    assert not torch.equal(answer(one, words), answer(other, words))
    load_state(other.adapter, one.adapter.state())
    assert torch.equal(answer(one, words), answer(other, words))


def test_resuming_gives_the_same_bits(trained: Trained, made: Assemble) -> None:
    resumed = made()
    # As a kill after the second step leaves it.
    for step in (1, 2):
        shutil.copytree(trained.run.folder.checkpoint(step), resumed.folder.checkpoint(step))
    assert resumed.trainer.resume()
    assert resumed.trainer.step == 2
    resumed.trainer.run()
    state = resumed.adapter.state()
    assert state.keys() == trained.after.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, trained.after[name]), name
    own, whole = (this.trainer.average for this in (resumed, trained.run))
    assert own is not None and whole is not None
    kept = own.values
    assert all(torch.equal(kept[name], value) for name, value in whole.values.items())


def test_gradient_checkpointing_changes_no_gradient(trained: Trained, made: Assemble) -> None:
    gradients: list[dict[str, Tensor | None]] = []
    with trained.untrained() as plainly:
        for this in (plainly, made("run", "training.gradient_checkpointing=true")):
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


def test_the_average_is_its_closed_form(trained: Trained) -> None:
    """Step t keeps min(decay, t/(9 + t)) of the average; the first takes the parameters as they are."""
    this, expected = trained.run, dict(trained.before)
    assert this.trainer.average is not None
    for step in range(1, 5):
        keep = min(DECAY, step / (9 + step)) if step > 1 else 0.0
        for name, value in weights(this, step).items():
            expected[name] = keep * expected[name] + (1 - keep) * value
    for name, value in this.trainer.average.values.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def weights(this: Run, step: int) -> dict[str, Tensor]:
    """The trained parameters in a checkpoint."""
    return dict(load_file(this.folder.checkpoint(step) / "weights.safetensors"))
