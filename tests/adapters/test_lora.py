"""The battery that every kind of LoRA goes through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from finetune.adapters import LoRA
from finetune.backbones import Backbone
from finetune.config import LoRASection
from finetune.diffusion.batch import Conditioning
from finetune.diffusion.random import generator
from finetune.errors import ConfigError
from tests.tiny import load_state

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "wide": {"targets": "all", "text_encoder": True, "alpha": 3.0, "rslora": True},
    "dora": {"dora": True, "text_encoder": True, "conv_rank": 2},
    "loha": {"algorithm": "loha", "text_encoder": True, "conv_rank": 2, "alpha": 3.0},
    "lokr": {"algorithm": "lokr", "text_encoder": True, "conv_rank": 1, "rank": 1, "alpha": 2.0},
    "pivotal": {"placeholder": "<mycat>", "vectors": 2, "initializer": "cat"},
}


@pytest.fixture(params=KINDS)
def section(request: pytest.FixtureRequest) -> LoRASection:
    return LoRASection(**({"rank": 4, "alpha": 4.0} | KINDS[request.param]))


@pytest.fixture
def inputs(backbone: Backbone) -> tuple[Tensor, Tensor, Conditioning]:
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return noisy, torch.tensor([10, 700]), backbone.conditioning(["a cat", "a red dog"])


def fill(adapter: LoRA, seed: int = 7) -> None:
    """Gives the parameters values as if trained."""
    drawn = torch.Generator().manual_seed(seed)
    for name, parameter in adapter.trained().items():
        noise = torch.randn(parameter.shape, generator=drawn)
        parameter.data = parameter.data + 0.2 * (noise.abs() if "magnitude" in name else noise)


def weights_of(backbone: Backbone) -> dict[str, Tensor]:
    roots = backbone.module_roots().items()
    return {f"{root}.{name}": t.clone() for root, m in roots for name, t in m.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@torch.no_grad()
def test_battery(
    backbone: Backbone, section: LoRASection, inputs: tuple[Tensor, Tensor, Conditioning]
) -> None:
    base, before = backbone.predict(*inputs), weights_of(backbone)
    adapter = LoRA(backbone, section, seed=3).eval()
    torch.testing.assert_close(adapter(*inputs), base, rtol=1e-4, atol=1e-5)  # nothing changes at first

    fill(adapter)
    learned = adapter(*inputs)
    assert (learned - base).abs().max() > 1e-3

    adapter.detach()
    assert same(weights_of(backbone), before)  # to the bit
    assert torch.equal(backbone.predict(*inputs), base)

    again = LoRA(backbone, section, seed=99).eval()
    state = dict(zip(again.state(), adapter.state().values(), strict=True))
    load_state(again, state)
    assert torch.equal(again(*inputs), learned)


def test_groups_and_dtypes(backbone: Backbone, section: LoRASection) -> None:
    backbone.to("cpu", torch.bfloat16)
    adapter = LoRA(backbone, section)
    named = adapter.trained()
    assert all(p.dtype == torch.float32 and p.requires_grad for p in named.values())
    assert {id(p) for p in adapter.parameters() if p.requires_grad} == {id(p) for p in named.values()}
    assert next(p for p in backbone.unet.parameters() if not p.requires_grad).dtype == torch.bfloat16
    groups = {group.name: dict(group.parameters) for group in adapter.groups()}
    assert list(groups) == (
        ["unet"] + ["text_encoder"] * section.text_encoder + ["embedding"] * bool(section.placeholder)
    )
    assert {name for group in groups.values() for name in group} == set(named)
    state = adapter.state()
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in state.values())
    backbone.to("cpu", torch.float16)  # casting the frozen weights leaves the trained ones alone
    assert same(adapter.state(), state)


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_start_depends_on_seed_alone(backbone: Backbone) -> None:
    torch.manual_seed(1)
    drawn = torch.get_rng_state()
    first = LoRA(backbone, LoRASection(rank=2), seed=5)
    assert torch.equal(torch.get_rng_state(), drawn)
    start = first.state()
    first.detach()
    torch.manual_seed(2)
    second = LoRA(backbone, LoRASection(rank=2, targets="all", text_encoder=True, conv_rank=2), seed=5)
    shared = {name: tensor for name, tensor in second.state().items() if name in start}
    assert same(shared, start)  # more layers change no other layer's start
    second.detach()
    third = LoRA(backbone, LoRASection(rank=2), seed=6).state()
    assert not any(torch.equal(third[name], start[name]) for name in start if "lora_A" in name)
    assert all(not tensor.any() for name, tensor in start.items() if "lora_B" in name)
    a = start["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"]
    assert a.abs().max() <= a.shape[1] ** -0.5  # Kaiming-uniform with a=√5 draws from ±1/√in


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
@pytest.mark.parametrize("kind", ["plain", "loha", "lokr", "pivotal"])
def test_another_seed_is_another_start(kind: str, backbone: Backbone) -> None:
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    changes: dict[str, Any] = {"rank": 1, "text_encoder": False, "conv_rank": None, "initializer": None}
    section = LoRASection(**(KINDS[kind] | changes | {"targets": [layer]}))
    starts = []
    for seed in (5, 6):
        adapter = LoRA(backbone, section, seed)
        starts.append(adapter.state())
        adapter.detach()
    zero = {name for name, value in starts[0].items() if not value.any()}
    assert {name.rpartition(".to_q.")[2] for name in zero} <= {"lora_B.weight", "hada_w2_b", "lokr_w1"}
    assert {name for name, value in starts[1].items() if torch.equal(value, starts[0][name])} == zero
    if kind == "plain":  # within ±1/√in
        drawn = torch.rand(1, 16, generator=generator(5, 0, f"lora/unet.{layer}"))
        torch.testing.assert_close(starts[0][f"unet.{layer}.lora_A.weight"], (2 * drawn - 1) / 4)


def test_gradients_equal_peft(backbone: Backbone, inputs: tuple[Tensor, Tensor, Conditioning]) -> None:
    """PEFT, set up by its own public function, gives the same prediction and gradients."""
    noisy, timesteps, conditioning = inputs
    with torch.no_grad():
        hidden, pooled = backbone.encode_text(backbone.tokenize(["a cat", "a red dog"]))
    conditioning = Conditioning(hidden=hidden, pooled=pooled, time_ids=conditioning.time_ids)
    adapter = LoRA(backbone, LoRASection(rank=4, alpha=8.0))
    fill(adapter)
    adapter(noisy, timesteps, conditioning).square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in adapter.trained().items() if p.grad is not None}
    state = adapter.state()
    adapter.detach()

    config = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    inject_adapter_in_model(config, backbone.unet)
    theirs = {
        "unet." + name.replace(".default", ""): p
        for name, p in backbone.unet.named_parameters()
        if "lora_" in name
    }
    assert theirs.keys() == state.keys()
    for name, parameter in theirs.items():
        parameter.data.copy_(state[name])
    backbone.predict(noisy, timesteps, conditioning).square().mean().backward()
    for name, parameter in theirs.items():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradients[name])


def test_gradient_checkpointing_changes_nothing(
    backbone: Backbone, inputs: tuple[Tensor, Tensor, Conditioning]
) -> None:
    adapter = LoRA(backbone, LoRASection(rank=2, text_encoder=True, dropout=0.3)).train()
    fill(adapter)
    results = []
    for _ in range(2):
        adapter.set_samples([4, 5], seed=0)
        adapter(*inputs).square().mean().backward()
        results.append({n: p.grad.clone() for n, p in adapter.trained().items() if p.grad is not None})
        adapter.zero_grad()
        adapter.enable_gradient_checkpointing()
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient)
    assert any(name.startswith("text_encoder.") and g.any() for name, g in results[1].items())


@torch.no_grad()
def test_dropout_depends_on_sample_alone(
    backbone: Backbone, inputs: tuple[Tensor, Tensor, Conditioning]
) -> None:
    noisy, timesteps, _ = inputs
    adapter = LoRA(backbone, LoRASection(rank=4, dropout=0.5, dora=True)).train()
    fill(adapter)

    def run(numbers: list[int], rows: list[int], seed: int = 0) -> Tensor:
        adapter.set_samples(numbers, seed)
        captions = [["a cat", "a red dog"][row] for row in rows]
        result: Tensor = adapter(noisy[rows], timesteps[rows], backbone.conditioning(captions))
        return result

    both = run([8, 9], [0, 1])
    assert torch.equal(run([8, 9], [0, 1]), both)
    torch.testing.assert_close(run([9], [1]), both[1:], rtol=1e-4, atol=1e-5)  # whatever the batch
    assert not torch.allclose(run([8, 10], [0, 1])[1], both[1], rtol=1e-3)
    assert not torch.allclose(run([8, 9], [0, 1], seed=1), both, rtol=1e-3)
    state = torch.get_rng_state()
    run([1, 2], [0, 1])
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(RuntimeError, match="2 samples"):
        run([1, 2], [0])
    adapter.eval()
    assert torch.equal(run([1, 2], [0, 1]), run([], [0, 1]))


def test_dropout_keeps_the_mean() -> None:
    from finetune.adapters.dropout import SampleDropout, Samples

    samples = Samples((1, 2), seed=0)
    dropped = SampleDropout(0.25, "layer", samples)(torch.ones(2, 200, 200))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    assert not torch.equal(dropped[0], dropped[1])


def test_targets(backbone: Backbone) -> None:
    linear = {n for n, m in backbone.unet.named_modules() if isinstance(m, nn.Linear)}

    def adapted(**settings: Any) -> set[str]:
        adapter = LoRA(backbone, LoRASection(rank=2, **settings))
        names = {name.removeprefix("unet.").split(".lora_")[0] for name in adapter.trained()}
        adapter.detach()
        return names

    attention = adapted()
    assert attention == {n for n in linear if ".attn" in n}
    feed_forward = adapted(targets="attention+ff") - attention
    assert feed_forward == {n for n in linear if ".ff." in n}
    rest = adapted(targets="all") - attention - feed_forward
    assert {n.rpartition(".")[2] for n in rest} == {"proj_in", "proj_out"}
    convolutions = adapted(conv_rank=2) - attention
    assert {n.split(".")[0] for n in convolutions} == {"down_blocks", "mid_block", "up_blocks"}
    assert all(isinstance(backbone.unet.get_submodule(n), nn.Conv2d) for n in convolutions)
    assert adapted(targets=["attn2.to_k"]) == {n for n in linear if n.endswith("attn2.to_k")}


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_sizes_of_convolutions(backbone: Backbone) -> None:
    adapter = LoRA(backbone, LoRASection(rank=4, alpha=2.0, conv_rank=3, conv_alpha=6.0))
    layers = adapter.weights().layers
    assert {(w.rank, w.alpha) for (_, n), w in layers.items() if ".attn" in n} == {(4, 2.0)}
    assert {(w.rank, w.alpha) for (_, n), w in layers.items() if "conv" in n} == {(3, 6.0)}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"targets": ["to_q", "to_qq"]}, 'ends in "to_qq"'),
        ({"targets": ["norm1"]}, 'ends in "norm1"'),
    ],
)
@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_bad_targets(backbone: Backbone, settings: dict[str, Any], told: str) -> None:
    before = weights_of(backbone)
    with pytest.raises(ConfigError, match=told) as caught:
        LoRA(backbone, LoRASection(**settings))
    assert caught.value.fix
    assert same(weights_of(backbone), before)


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_nearest_target_is_named(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match=r"Nearest: to_out\.0"):
        LoRA(backbone, LoRASection(targets=["to_out0"]))


def test_trained_text_encoders_need_tokens(
    backbone: Backbone, inputs: tuple[Tensor, Tensor, Conditioning]
) -> None:
    adapter = LoRA(backbone, LoRASection(rank=2, text_encoder=True))
    with pytest.raises(ValueError, match="tokens"):
        adapter(inputs[0], inputs[1], Conditioning(hidden=torch.zeros(2, 77, 16)))


def test_switched_off_it_predicts_as_before(
    backbone: Backbone, section: LoRASection, inputs: tuple[Tensor, Tensor, Conditioning]
) -> None:
    with torch.no_grad():
        before = backbone.predict(*inputs)
        adapter = LoRA(backbone, section)
        fill(adapter)
        trained = adapter(*inputs)
        assert torch.equal(adapter.predict_untrained(*inputs), before)
        assert torch.equal(adapter(*inputs), trained)
    assert not torch.equal(trained, before)
    assert all(p.requires_grad for p in adapter.trained().values())
