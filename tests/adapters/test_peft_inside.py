"""What is relied on of PEFT beyond its documented calls: a release that changes it fails here, by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from finetune.adapters import peft_inside
from finetune.adapters.algorithms import update_class
from finetune.adapters.algorithms.lora import LowRankUpdate
from finetune.adapters.inject import LayerSize, eject, inject
from finetune.config.algorithms import ALGORITHMS

CONFIGS: dict[str, Callable[..., Any]] = {
    "lora": lambda **more: LoraConfig(init_lora_weights=False, **more),
    "dora": lambda **more: LoraConfig(init_lora_weights=False, use_dora=True, **more),
    "loha": lambda **more: LoHaConfig(init_weights=False, **more),
    "lokr": lambda **more: LoKrConfig(init_weights=False, **more),
}
NAMES = {
    "lora": ["lora_A", "lora_B"],
    "dora": ["lora_A", "lora_B", "lora_magnitude_vector"],
    "loha": ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"],
    "lokr": ["lokr_w1", "lokr_w2_a", "lokr_w2_b"],
}
each_kind = pytest.mark.parametrize("kind", CONFIGS)


class Small(nn.Module):
    """A linear layer behind a convolution."""

    linear: Any  # PEFT puts one of its layers in its place

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.linear = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).mean((2, 3)))  # type: ignore[no-any-return]


def picture() -> Tensor:
    return torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))


def put_on(module: nn.Module, kind: str, adapter: str = "one", *targets: str) -> Any:
    """Injects an adapter that changes something; returns the layer around `linear`."""
    # LoKr divides a small layer into two factors only at rank 1.
    config = CONFIGS[kind](r=1 if kind == "lokr" else 2, target_modules=list(targets) or ["linear"])
    with torch.random.fork_rng(devices=[]), peft_inside.no_second_adapter_warning():
        torch.manual_seed(len(adapter))
        inject_adapter_in_model(config, module, adapter)
    return module.get_submodule("linear")


@each_kind
def test_the_parameters_of_a_layer_are_held_by_kind_and_adapter(kind: str) -> None:
    module = Small()
    layer = put_on(module, kind)
    put_on(module, kind, "other")
    found = peft_inside.parameters_of(layer, "one")
    assert list(found) == NAMES[kind]
    named = {
        name for name, parameter in layer.named_parameters() if any(parameter is p for p in found.values())
    }
    # Their names in a state dict, which are those in files, tell the same.
    assert {name.removesuffix(".weight") for name in named} == {f"{part}.one" for part in found}
    assert not peft_inside.parameters_of(layer, "a third")
    all_of_it = {id(p) for name, p in layer.named_parameters() if not name.startswith("base_layer")}
    both = [*found.values(), *peft_inside.parameters_of(layer, "other").values()]
    assert {id(p) for p in both} == all_of_it


@pytest.mark.parametrize("kind", ["loha", "lokr"])
@torch.no_grad()
def test_replaced_factors_act_though_of_another_shape(kind: str) -> None:
    module = Small()
    layer = put_on(module, kind)
    draw = torch.Generator().manual_seed(2)
    shapes = {
        "loha": {"hada_w1_a": (12, 3), "hada_w1_b": (3, 16), "hada_w2_a": (12, 3), "hada_w2_b": (3, 16)},
        "lokr": {"lokr_w1_a": (6, 1), "lokr_w1_b": (1, 2), "lokr_w2": (2, 8)},
    }[kind]
    new = {name: nn.Parameter(torch.randn(shape, generator=draw)) for name, shape in shapes.items()}
    peft_inside.replace_parameters(layer, "one", new)
    assert peft_inside.parameters_of(layer, "one") == new
    values = list(new.values())
    change = (
        (values[0] @ values[1]) * (values[2] @ values[3])
        if kind == "loha"
        else torch.kron(values[0] @ values[1], values[2])
    )
    x = torch.randn(3, 16, generator=draw)
    expected = layer.get_base_layer()(x) + layer.scaling["one"] * x @ change.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_replaced_dropout_sees_the_input_of_the_matrices() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    layer = put_on(Small(), "lora")
    x = torch.ones(2, 16)
    assert not torch.equal(layer(x), layer.get_base_layer()(x))
    peft_inside.set_dropout(layer, "one", Nothing())
    assert torch.equal(layer(x), layer.get_base_layer()(x))


@each_kind
def test_a_layer_whose_adapters_are_disabled_computes_its_base_alone(kind: str) -> None:
    layer = put_on(Small(), kind)
    x = torch.ones(2, 16)
    before = layer(x)
    peft_inside.switch(layer, False)
    assert layer.disable_adapters
    assert torch.equal(layer(x), layer.get_base_layer()(x))
    assert all(p.requires_grad for p in peft_inside.parameters_of(layer, "one").values())
    peft_inside.switch(layer, True)
    assert torch.equal(layer(x), before)
    assert not torch.equal(before, layer.get_base_layer()(x))


def test_a_lora_says_whether_it_has_dropout() -> None:
    layer = put_on(Small(), "lora")
    assert not peft_inside.drops(layer, "one")
    peft_inside.set_dropout(layer, "one", nn.Dropout(0.5))
    assert peft_inside.drops(layer, "one")


@torch.no_grad()
def test_the_scale_is_told_where_an_update_acts_alone() -> None:
    module = Small()
    layer = put_on(module, "lora")
    x = torch.ones(2, 16)
    a, b = (peft_inside.parameters_of(layer, "one")[kind] for kind in ("lora_A", "lora_B"))
    for factor in (1.0, 0.3):
        layer.set_scale("one", factor)
        scale = peft_inside.scale_alone(layer, "one")
        assert scale is not None
        torch.testing.assert_close(layer(x), layer.get_base_layer()(x) + scale * (x @ a.T @ b.T))
    peft_inside.switch(layer, False)
    assert peft_inside.scale_alone(layer, "one") is None
    peft_inside.switch(layer, True)
    layer.merge()
    assert peft_inside.scale_alone(layer, "one") is None
    layer.unmerge()
    put_on(module, "lora", "other")  # PEFT makes the newest one active
    assert peft_inside.scale_alone(layer, "one") is None
    peft_inside.activate(layer, ["one", "other"])
    assert peft_inside.scale_alone(layer, "one") is None
    put_on(module, "loha", "around")
    outer = module.linear
    assert peft_inside.scale_alone(put_on(Small(), "lora"), "one") is not None
    assert outer is not layer and peft_inside.scale_alone(layer, "one") is None


@pytest.mark.parametrize("first", CONFIGS)
@pytest.mark.parametrize("second", CONFIGS)
def test_a_layer_without_its_adapters_is_the_one_beneath(first: str, second: str) -> None:
    """Also where a layer of one kind is around one of another."""
    module = Small()
    plain = module.linear
    put_on(module, first, "one")
    alone = module(picture())
    layer = put_on(module, second, "another")
    assert peft_inside.without(layer, None) is plain  # all of them at once
    peft_inside.activate(layer, ["one", "another"])
    left = peft_inside.without(layer, "another")
    module.linear = left
    assert left is not plain
    peft_inside.activate(left, ["one"])
    assert torch.equal(module(picture()), alone)
    assert not peft_inside.parameters_of(left, "another")
    assert peft_inside.without(left, "one") is plain


@pytest.mark.parametrize(("lower", "upper"), [("lora", "loha"), ("loha", "lokr"), ("lokr", "dora")])
@torch.no_grad()
def test_a_layer_of_one_kind_stays_around_what_one_of_another_kind_was_around(lower: str, upper: str) -> None:
    module, alone = Small(), Small()
    plain = module.linear
    put_on(module, lower, "one")
    layer = put_on(module, upper, "another")
    put_on(alone, upper, "another")
    assert peft_inside.without(layer, "one") is layer
    assert layer.base_layer is plain
    assert torch.equal(module(picture()), alone(picture()))


@each_kind
@torch.no_grad()
def test_the_chosen_adapters_of_a_layer_act_together(kind: str) -> None:
    module = Small()
    base = module(picture())
    layer = put_on(module, kind, "one")
    one = module(picture()) - base
    put_on(module, kind, "another")
    peft_inside.activate(layer, ["another", "not here"])
    another = module(picture()) - base
    peft_inside.activate(layer, ["one", "another", "not here"])
    assert layer.active_adapters == ["one", "another"]
    if kind != "dora":  # whose changes do not add up
        torch.testing.assert_close(module(picture()) - base, one + another, rtol=1e-4, atol=1e-5)
    peft_inside.activate(layer, ["one"])
    torch.testing.assert_close(module(picture()) - base, one)


def test_a_module_tells_its_adapters_until_they_are_forgotten() -> None:
    module = Small()
    assert peft_inside.adapters_on(module) == []
    peft_inside.forget(module, "none")
    for adapter in ("one", "two", "three"):
        put_on(module, "lora", adapter)
    assert peft_inside.adapters_on(module) == ["one", "two", "three"]
    peft_inside.forget(module, "two")
    assert peft_inside.adapters_on(module) == ["one", "three"]
    peft_inside.forget(module, None)
    assert not hasattr(module, "peft_config")


def test_a_second_adapter_gets_a_warning_and_one_after_an_ejected_one_none() -> None:
    module = Small()
    inject(module, {"linear": LayerSize(2, 2.0)}, "one", LowRankUpdate)
    config = LoraConfig(target_modules=["linear"])
    with pytest.warns(UserWarning, match="Already found a `peft_config`"):
        inject_adapter_in_model(config, module, "another")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inject(module, {"linear": LayerSize(2, 2.0)}, "a third", LowRankUpdate)
        eject(module)
        inject_adapter_in_model(config, module, "one")


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_without_loras_the_parameters_have_their_names_of_before(kind: str) -> None:
    module = Small()
    before = dict(module.named_parameters())
    put_on(module, kind, "one", "conv", "linear")
    found = peft_inside.without_peft(module)
    assert list(found) == list(before)
    assert all(found[name] is parameter for name, parameter in before.items())


@pytest.mark.parametrize(
    ("pattern", "layer", "fits"),
    [
        ("to_q", "mid_block.attentions.0.to_q", True),
        ("mid_block.attentions.0.to_q", "mid_block.attentions.0.to_q", True),
        ("o_q", "mid_block.attentions.0.to_q", False),
        ("attentions", "mid_block.attentions.0.to_q", False),
        (r"attentions\.\d+\.to_[qk]", "mid_block.attentions.0.to_q", True),
        ("^mid_block.attentions.0.to_q", "mid_block.attentions.0.to_q", True),
        ("^attentions.0.to_q", "mid_block.attentions.0.to_q", False),
    ],
)
def test_patterns_mean_what_they_mean_to_peft(pattern: str, layer: str, fits: bool) -> None:
    """A pattern is a regular expression that is the end of a layer's name, from a dot on."""
    assert peft_inside.by_pattern({pattern: 3.0}, layer, 7.0) == (3.0 if fits else 7.0)
    # The same, in a layer that PEFT makes.
    module = nn.Module()
    *parents, last = layer.split(".")
    at = module
    for name in parents:
        at.add_module(name, nn.Module())
        at = at.get_submodule(name)
    at.add_module(last, nn.Linear(4, 4))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The following rank_pattern keys did not match")
        inject_adapter_in_model(LoraConfig(r=7, rank_pattern={pattern: 3}, target_modules=[layer]), module)
    rank, _ = peft_inside.parameters_of(module.get_submodule(layer), "default")["lora_A"].shape
    assert rank == (3 if fits else 7)


def test_of_several_patterns_the_first_that_fits_counts() -> None:
    assert peft_inside.by_pattern({"x": 1, "to_.": 2, "to_q": 3}, "block.to_q", 4) == 2
    assert peft_inside.by_pattern({}, "block.to_q", 4) == 4


@each_kind
@torch.no_grad()
def test_unmerging_ends_the_merged_state_also_without_the_adapter(kind: str) -> None:
    for ejected in (False, True):
        module = Small()
        layer = put_on(module, kind)
        weight = layer.get_base_layer().weight.data
        layer.merge(safe_merge=True, adapter_names=["one"])
        assert layer.merged
        assert layer.get_base_layer().weight.data is not weight
        assert torch.equal(weight, Small().linear.weight)  # merging left the old tensor alone
        if ejected:
            layer.delete_adapter("one")
        layer.unmerge()
        assert not layer.merged


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@torch.no_grad()
def test_a_restored_layer_acts_as_before_it_was_merged(algorithm: str) -> None:
    module = Small()
    update = inject(module, {"linear": LayerSize(1, 1.0)}, "one", update_class(algorithm))["linear"]
    draw = torch.Generator().manual_seed(3)
    for parameter in update.parameters().values():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
    before, weight = module(picture()), module.linear.get_base_layer().weight.data
    update.restore(update.merge())
    assert torch.equal(module(picture()), before)
    assert module.linear.get_base_layer().weight.data.data_ptr() == weight.data_ptr()
    assert torch.equal(weight, Small().linear.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_dora_starts_with_pefts_magnitude_in_fp32(dtype: torch.dtype) -> None:
    """To the bit what PEFT computes for the same weights in fp32."""
    module, theirs = Small().to(dtype), Small().to(dtype).float()
    sizes = {"conv": LayerSize(2, 2.0), "linear": LayerSize(2, 2.0)}
    updates = inject(module, sizes, "one", LowRankUpdate, use_dora=True)
    inject_adapter_in_model(LoraConfig(r=2, use_dora=True, target_modules=list(sizes)), theirs, "one")
    for name, update in updates.items():
        magnitude = peft_inside.parameters_of(theirs.get_submodule(name), "one")["lora_magnitude_vector"]
        assert update.magnitude is not None
        assert update.magnitude.dtype == torch.float32
        assert update.magnitude.requires_grad
        assert torch.equal(update.magnitude, magnitude)
