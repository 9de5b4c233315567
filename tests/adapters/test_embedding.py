"""New words: only their rows are trained, and everything else is to the bit what it was."""

from __future__ import annotations

import pytest
import torch

from finetune.adapters import LoRA, TextualInversion
from finetune.adapters.embedding import NewWord
from finetune.backbones import Backbone
from finetune.backbones.words import initial_word
from finetune.config import EmbeddingSection, LoRASection
from finetune.errors import ConfigError
from tests.adapters.test_lora import same, weights_of
from tests.tiny import load_state

SECTION = EmbeddingSection(placeholder="<mycat>", vectors=3, initializer="cat")
NOISY, TIMESTEPS = (
    torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
    torch.tensor([10, 700]),
)
CAPTIONS = ["a red <mycat>", "a dog"]
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


def test_battery(backbone: Backbone) -> None:
    before, known = weights_of(backbone), backbone.tokenize(CAPTIONS)
    plain = backbone.predict(NOISY, TIMESTEPS, backbone.conditioning(["a red cat cat cat", "a dog"]))
    adapter = TextualInversion(backbone, SECTION, seed=3)
    conditioning = backbone.conditioning(CAPTIONS)
    # At first the word means its initializer, once for each vector.
    torch.testing.assert_close(adapter(NOISY, TIMESTEPS, conditioning), plain)

    trained = adapter.trained()
    assert {id(p) for p in adapter.parameters() if p.requires_grad} == {id(p) for p in trained.values()}
    assert [g.name for g in adapter.groups()] == ["embedding"] and len(trained) == len(backbone.text_encoders)
    first = adapter.state()
    optimizer = torch.optim.AdamW(trained.values(), lr=0.5, weight_decay=0.1)
    target = torch.zeros_like(NOISY)
    losses = []
    for _ in range(4):
        loss = (adapter(NOISY, TIMESTEPS, conditioning) - target).square()[:1].mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.any(dim=1).all() for p in trained.values())

    with torch.no_grad():
        learned = adapter(NOISY, TIMESTEPS, conditioning)
        with adapter.switched_off():
            torch.testing.assert_close(backbone.predict(NOISY, TIMESTEPS, conditioning), plain)
        assert torch.equal(adapter(NOISY, TIMESTEPS, conditioning), learned)
        assert torch.equal(learned[1:], plain[1:]) or torch.allclose(learned[1:], plain[1:], atol=1e-5)
        word, state = adapter.word(), adapter.state()
        assert word.tokens == ["<mycat>", "<mycat>_1", "<mycat>_2"]
        assert all(torch.equal(row, s) for row, s in zip(word.rows, state.values(), strict=True))
        adapter.detach()
        assert same(weights_of(backbone), before)  # no old row has moved or decayed
        assert torch.equal(backbone.tokenize(CAPTIONS), known)

        again = TextualInversion(backbone, SECTION, seed=99)
        assert same(again.state(), first)
        load_state(again, state)
        assert torch.equal(again(NOISY, TIMESTEPS, backbone.conditioning(CAPTIONS)), learned)


def test_precision_and_gradient_checkpointing(backbone: Backbone) -> None:
    adapter = TextualInversion(backbone, SECTION).train()
    conditioning = backbone.conditioning(CAPTIONS)
    gradients = []
    for _ in range(2):
        adapter(NOISY, TIMESTEPS, conditioning).square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in adapter.trained().items() if p.grad is not None})
        adapter.zero_grad()
        adapter.enable_gradient_checkpointing()
    assert len(gradients[0]) == len(backbone.text_encoders)
    for name, gradient in gradients[0].items():
        assert gradient.any()
        torch.testing.assert_close(gradients[1][name], gradient)
    state = adapter.state()
    backbone.to("cpu", torch.bfloat16)
    assert same(adapter.state(), state) and all(p.dtype == torch.float32 for p in adapter.trained().values())


@one_family
def test_training_leaves_the_word_it_began_with_alone(backbone: Backbone) -> None:
    word = initial_word(backbone, "<mycat>", 2, None, seed=3)
    before = [row.clone() for row in word.rows]
    new = NewWord(backbone, word)
    learned = new.value()
    for parameter in new.trained().values():
        parameter.data += 1
    for kept in (word, learned):
        assert all(torch.equal(row, start) for row, start in zip(kept.rows, before, strict=True))


@one_family
def test_a_drawn_start_depends_on_the_seed_alone(backbone: Backbone) -> None:
    section = EmbeddingSection(placeholder="<mycat>", vectors=2)
    states: list[torch.Tensor] = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed + len(states))
        adapter = TextualInversion(backbone, section, seed=seed)
        states.append(adapter.state()["embedding.text_encoder"])
        adapter.detach()
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    table = backbone.text_encoders[0].get_input_embeddings().weight
    assert states[0].std() == pytest.approx(table.std().item(), rel=0.5)


def test_pivotal_tuning_trains_both(backbone: Backbone) -> None:
    before = weights_of(backbone)
    adapter = LoRA(backbone, LoRASection(rank=2, placeholder="<mycat>", initializer="cat"))
    groups = {group.name: [name for name, _ in group.parameters] for group in adapter.groups()}
    assert list(groups) == ["unet", "embedding"] and adapter.trains_text
    adapter(NOISY, TIMESTEPS, backbone.conditioning(CAPTIONS)).square().mean().backward()
    assert all(p.grad is not None for p in adapter.trained().values())
    word = adapter.word()
    assert word is not None and word.text == "<mycat>"
    adapter.detach()
    assert same(weights_of(backbone), before)


@one_family
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"placeholder": "cat"}, "knows the word cat"),
        ({"placeholder": None}, "No new word"),
        ({"initializer": "a red cat"}, "has 3 tokens, the new word 2"),
        ({"initializer": ""}, "has 0 tokens"),
    ],
)
def test_words_that_cannot_be(settings: dict[str, str | None], told: str, backbone: Backbone) -> None:
    tokenizers, before = backbone.tokenizers, weights_of(backbone)
    with pytest.raises(ConfigError, match=told) as caught:
        TextualInversion(backbone, EmbeddingSection(**({"placeholder": "<x>", "vectors": 2} | settings)))
    assert caught.value.fix
    assert backbone.tokenizers is tokenizers and same(weights_of(backbone), before)
