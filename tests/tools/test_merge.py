"""Several LoRAs as one, against their weighted sum, PEFT's own combinations, and diffusers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, LoraModel, get_peft_model
from safetensors import safe_open
from torch import Tensor, nn

from finetune.adapters import Hadamard, LowRank
from finetune.backbones import Backbone
from finetune.diffusion.random import draw_seed
from finetune.errors import ConfigError, WeightsError
from finetune.formats import read_lora, write_diffusers, write_kohya
from finetune.tools import Limit, Plan, Target, merge, relative_error
from finetune.tools.merge import combine
from tests.formats.conftest import trained_lora
from tests.tools.changes import Changes, assert_equal, best, by_diffusers, by_peft

one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)
MODEL = {
    "ss_v2": "False",
    "ss_base_model_version": "sd_v1",
    "finetune.recipe": '{"kind": "lora", "model": {"name": "storybook"}}',
}


def two(backbone: Backbone, place: Path, **second: Any) -> list[tuple[Path, float]]:
    """A LoRA with kohya's names, and one with diffusers' that has other layers and ranks."""
    first = trained_lora(backbone, text_encoder=True)
    write_kohya(place / "a.safetensors", first, {**MODEL, "ss_seed": "1"})
    first.detach()
    other = trained_lora(backbone, **({"rank": 2, "conv_rank": 3, "alpha": 3.0} | second))
    (write_kohya if second else write_diffusers)(place / "b.safetensors", other, {**MODEL, "ss_seed": "1"})
    other.detach()
    return [(place / "a.safetensors", 0.7), (place / "b.safetensors", -0.4)]


def summed(*all_changes: Changes) -> Changes:
    """Entrywise sums; a weight that only some change counts too."""
    total: Changes = {}
    for changes in all_changes:
        for name, change in changes.items():
            total[name] = total.get(name, torch.zeros_like(change)) + change
    return total


@pytest.mark.parametrize("family", ["sd1", "sdxl"], indirect=True)
def test_concatenation_is_the_weighted_sum(backbone: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    loras = two(backbone, tmp_path)
    layers = merge(loras, backbone, Target(tmp_path / "out.safetensors"), Plan())
    expected = summed(*(by_diffusers(tiny_folder, file, weight) for file, weight in loras))
    assert_equal(by_diffusers(tiny_folder, tmp_path / "out.safetensors"), expected, 1e-6)
    assert {kept.lora.rank for kept in layers.values()} == {3, 4, 6}  # convolutions, text, both
    assert relative_error(layers) == 0


@one_family
@pytest.mark.parametrize("limit", [Limit(3), Limit()])
def test_svd_is_the_best_approximation_of_the_sum(
    limit: Limit, backbone: Backbone, tiny_folder: Path, tmp_path: Path
) -> None:
    loras = two(backbone, tmp_path)
    layers = merge(loras, backbone, Target(tmp_path / "out.safetensors"), Plan("svd", limit))
    whole = summed(*(by_diffusers(tiny_folder, file, weight) for file, weight in loras))
    # Without a limit, the largest of the inputs' ranks: 4, but 3 in convolutions, which only one has.
    expected = {n: best(c, limit.rank or (3 if c.shape[2:] == (3, 3) else 4)) for n, c in whole.items()}
    assert_equal(by_diffusers(tiny_folder, tmp_path / "out.safetensors"), expected)
    lost = sum((whole[name] - expected[name]).double().square().sum().item() for name in whole)
    total = sum(change.double().square().sum().item() for change in whole.values())
    assert relative_error(layers) == pytest.approx((lost / total) ** 0.5, rel=1e-3)


@one_family
@pytest.mark.parametrize("algorithm", ["loha", "lokr"])
def test_other_algorithms(algorithm: str, backbone: Backbone, tmp_path: Path) -> None:
    loras = two(backbone, tmp_path, algorithm=algorithm, conv_rank=2)
    merge(loras, backbone, Target(tmp_path / "out.safetensors"), Plan())
    expected = summed(*(by_peft(backbone, file, weight) for file, weight in loras))
    assert_equal(by_peft(backbone, tmp_path / "out.safetensors"), expected)


class OneLayer(nn.Module):
    """A model of one linear layer or convolution."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


LAYERS = {"linear": nn.Linear(12, 9, bias=False), "convolution": nn.Conv2d(5, 9, 3, bias=False)}


def by_add_weighted_adapter(
    layers: list[LowRank], weights: list[float], kind: str, method: str, rank: int, density: float, seed: int
) -> Tensor:
    """The change that PEFT's own `add_weighted_adapter` makes of LoRAs."""
    names = [f"lora{number}" for number in range(len(layers))]
    model: Any = None
    for name, layer in zip(names, layers, strict=True):
        config = LoraConfig(r=layer.rank, lora_alpha=layer.alpha, target_modules=["layer"])
        if model is None:
            model = get_peft_model(OneLayer(LAYERS[kind]), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        tuned = model.base_model.model.layer
        tuned.lora_A[name].weight.data = layer.down
        tuned.lora_B[name].weight.data = layer.up
    # A new adapter's initial values are drawn first.
    inside = LoraModel._svd_generalized_task_arithmetic_weighted_adapter

    def seeded(*args: Any, **kwargs: Any) -> Any:
        torch.manual_seed(seed)
        return inside(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoraModel, inside.__name__, seeded)
        model.add_weighted_adapter(names, weights, "all", method, svd_rank=rank, density=density)
    change: Tensor = model.base_model.model.layer.get_delta_weight("all").detach()
    model.unload()
    return change


@pytest.mark.filterwarnings("ignore:Already found a .peft_config.")
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("weights", [[0.8, 0.5, 0.3], [1.0, -0.6, 0.2]])
@pytest.mark.parametrize("method", ["svd", "ties", "magnitude_prune", "dare_linear", "dare_ties", "concat"])
def test_methods_are_pefts(method: str, weights: list[float], kind: str) -> None:
    drawn, shape = torch.Generator().manual_seed(0), tuple(LAYERS[kind].weight.shape)  # type: ignore[arg-type]
    layers = [
        LowRank(
            torch.randn(rank, *shape[1:], generator=drawn),
            torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=drawn),
            alpha,
        )
        for rank, alpha in ((3, 2.0), (4, 4.0), (2, 5.0))
    ]
    own = combine(
        list(zip(layers, weights, strict=True)),
        Plan(method, Limit() if method == "concat" else Limit(5), density=0.3, seed=11),
        "unet.layer",
    )
    theirs = {"svd": "svd", "concat": "cat"}.get(method, f"{method}_svd")
    seed = draw_seed(11, 0, "dare/unet.layer")
    expected = by_add_weighted_adapter(layers, weights, kind, theirs, 5, 0.3, seed)
    torch.testing.assert_close(own.lora.delta(), expected, rtol=1e-4, atol=1e-4)
    assert own.lora.rank == (9 if method == "concat" else 5)


def test_dare_depends_on_seed_and_layer_alone() -> None:
    layer = LowRank(torch.ones(1, 30), torch.ones(20, 1), 1.0)

    def dropped(seed: int, name: str) -> Tensor:
        return combine([(layer, 1.0)], Plan("dare_linear", Limit(20), seed=seed), name).lora.delta()

    state = torch.get_rng_state()
    first = dropped(1, "a")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(first, dropped(1, "a"))
    assert not torch.allclose(first, dropped(2, "a")) and not torch.allclose(first, dropped(1, "b"))


@one_family
def test_the_file_says_what_it_was_made_from(backbone: Backbone, tmp_path: Path) -> None:
    loras = two(backbone, tmp_path)
    plan = Plan("dare_ties", Limit(2), density=0.4, seed=3)
    merge(loras, backbone, Target(tmp_path / "out.safetensors"), plan)
    with safe_open(tmp_path / "out.safetensors", "pt") as opened:
        told = opened.metadata()
    # What holds of the model is kept, but not what one training was.
    assert told["ss_base_model_version"] == "sd_v1" and told["ss_v2"] == "False" and "ss_seed" not in told
    assert json.loads(told["finetune.recipe"]) == {"model": {"name": "storybook"}}
    assert told["ss_network_dim"] == "2" and told["ss_output_name"] == "out"
    about = json.loads(told["finetune.made_by"])
    settings = {"tool": "merge", "method": "dare_ties", "density": 0.4, "seed": 3, "rank": 2, "energy": None}
    assert {key: about[key] for key in settings} == settings
    for (file, weight), source in zip(loras, about["inputs"], strict=True):
        assert (source["file"], source["weight"]) == (file.name, weight)
        assert source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert source["metadata"]["ss_seed"] == "1"

    # Not the model's, if the inputs are not of one model.
    other = trained_lora(backbone)
    write_kohya(tmp_path / "c.safetensors", other, {"ss_base_model_version": "sd_v1", "ss_v2": "True"})
    other.detach()
    merge(
        [loras[0], (tmp_path / "c.safetensors", 1.0)], backbone, Target(tmp_path / "two.safetensors"), Plan()
    )
    with safe_open(tmp_path / "two.safetensors", "pt") as opened:
        assert not {"finetune.recipe", "ss_v2"} & opened.metadata().keys()
        assert opened.metadata()["ss_base_model_version"] == "sd_v1"
        assert "density" not in json.loads(opened.metadata()["finetune.made_by"])


@one_family
def test_new_words_of_all(backbone: Backbone, tmp_path: Path) -> None:
    for name, word, move in (("a", "<a>", 0.0), ("b", "<b>", 0.0), ("c", "<a>", 1.0)):
        lora = trained_lora(backbone, placeholder=word)
        for key, parameter in lora.trained().items():
            if "lora" not in key:
                parameter.data += move
        write_kohya(tmp_path / f"{name}.safetensors", lora, {})
        lora.detach()
    files = {name: (tmp_path / f"{name}.safetensors", 1.0) for name in "abc"}
    out = tmp_path / "out.safetensors"
    merge([files["a"], files["b"], files["a"]], backbone, Target(out), Plan())
    assert {word.text for word in read_lora(out, backbone).words} == {"<a>", "<b>"}
    with pytest.raises(ConfigError, match="both have a new word <a>, and they differ"):
        merge([files["a"], files["c"]], backbone, Target(tmp_path / "no.safetensors"), Plan())
    assert not (tmp_path / "no.safetensors").exists()


@one_family
def test_what_cannot_be_merged_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    loras, out = two(backbone, tmp_path, dora=True), Target(tmp_path / "out.safetensors")
    with pytest.raises(WeightsError, match="This is a DoRA"):
        merge(loras, backbone, out, Plan())
    with pytest.raises(ConfigError, match="--method svd"):
        Plan("concat", Limit(3))
    out.path.touch()
    with pytest.raises(ConfigError, match="never overwritten"):
        merge(loras[:1], backbone, out, Plan())


def test_a_loha_of_full_rank_is_added_exactly() -> None:
    drawn = torch.Generator().manual_seed(0)
    a, b, c, d = (torch.randn(shape, generator=drawn) for shape in ((6, 3), (3, 8)) * 2)
    loha = Hadamard(a, b, c, d, 1.5, (6, 8))
    lora = LowRank(torch.randn(2, 8, generator=drawn), torch.randn(6, 2, generator=drawn), 2.0)
    expected = 0.5 * 1.5 / 3 * (a @ b) * (c @ d) + 2 * lora.up @ lora.down
    total = combine([(loha, 0.5), (lora, 2.0)], Plan(), "x")
    torch.testing.assert_close(total.lora.delta(), expected, rtol=1e-5, atol=1e-5)
    assert total.whole == pytest.approx(expected.double().square().sum().item(), rel=1e-5)
