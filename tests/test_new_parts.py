"""A part from elsewhere is one row: an algorithm, an optimizer, a weighting and a sampler of the test's own.

Nothing of the package is changed for them. The algorithm is FourierFT (arXiv:2405.03003), which PEFT has
and finetune has not: a few numbers in the spectrum of the change of a weight.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DEISMultistepScheduler
from peft import FourierFTConfig
from safetensors import safe_open
from torch import Tensor, nn

from finetune.adapters import LayerWeights, LowRank
from finetune.adapters.algorithms.lora import as_full_rank
from finetune.adapters.matrices import Shape, full_rank
from finetune.adapters.updates import Update
from finetune.adapters.weights import Row, Strength
from finetune.backbones import load_backbone
from finetune.config import ModelSection, ObjectiveSection, OptimizerSection
from finetune.config.algorithms import ALGORITHMS, Algorithm
from finetune.config.optimizers import OPTIMIZERS, Optimizer
from finetune.config.samplers import SAMPLERS, Sampler
from finetune.config.weightings import WEIGHTINGS, Weighting
from finetune.diffusion.weighting import timestep_weights
from finetune.formats import DataFacts, apply_lora, read_lora, run_metadata
from finetune.sampling.png import parameters
from finetune.sampling.sampler import Sampler as Pictures
from finetune.sampling.schedulers import make_scheduler
from tests.battery.cases import Case, put_together

SEED = 777  # PEFT's, for the places of the numbers


@dataclass(frozen=True)
class Spectrum(LayerWeights):
    """`alpha` times the inverse Fourier transform of a few numbers."""

    algorithm = "fourier"
    suffixes = {".spectrum": "spectrum"}  # noqa: RUF012
    leading = frozenset({"spectrum"})
    flat = frozenset({"spectrum"})

    numbers: Tensor
    alpha: float
    shape: Shape

    @classmethod
    def from_file(cls, row: Row, shape: Shape, strength: Strength) -> Spectrum:
        return cls(row["spectrum"], float(row["alpha"]), shape)

    @property
    def rank(self) -> int:
        return len(self.numbers)

    @property
    def low_rank_size(self) -> int:
        return full_rank(self.shape)

    def low_rank(self) -> LowRank:
        return as_full_rank(self.delta())

    def delta(self) -> Tensor:
        places = torch.randperm(self.shape[0] * self.shape[1], generator=torch.Generator().manual_seed(SEED))[
            : self.rank
        ]
        dense = torch.zeros(self.shape[0] * self.shape[1])
        dense[places] = self.numbers
        return self.alpha * torch.fft.ifft2(dense.view(self.shape)).real

    def factors(self) -> dict[str, Tensor]:
        return {"spectrum": self.numbers}


class SpectrumUpdate(Update):
    """PEFT's layers of FourierFT."""

    config = FourierFTConfig
    values = Spectrum

    @classmethod
    def settings(cls, rank: int, alpha: float, **others: Any) -> Any:
        return FourierFTConfig(
            n_frequency=rank, scaling=alpha, random_loc_seed=SEED, target_modules=others["target_modules"]
        )

    @property
    def spectrum(self) -> nn.Parameter:
        return self.parameters()["fourierft_spectrum"]

    def start(self, seed: int, layer: str) -> None:
        self.spectrum.data.zero_()

    def weights(self, values: Mapping[str, Tensor], alpha: float) -> Spectrum:
        return Spectrum(values["fourierft_spectrum"], alpha, self.shape)

    @torch.no_grad()
    def fill(self, weights: Spectrum) -> None:
        self.spectrum.copy_(weights.numbers)
        self.spectrum.requires_grad_(False)
        self._alpha = weights.alpha

    def set_scale(self, scale: float) -> None:
        self._layer.fourierft_scaling[self._name] = self._alpha * scale


class SlowerSign(torch.optim.SGD):
    """Steps by the sign of the gradient; each group counts them, and the n-th is by the rate over n."""

    def __init__(self, groups: Any, **settings: Any) -> None:
        super().__init__(groups, **settings)
        for group in self.param_groups:
            group["count"] = 0

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["count"] += 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.data.sub_(parameter.grad.sign(), alpha=group["lr"] / group["count"])


def steady(section: OptimizerSection) -> dict[str, Any]:
    return {}


def signal(snr: Tensor, section: ObjectiveSection) -> Tensor:
    """ᾱ, as the weight of the error of x₀."""
    return snr / (1 + snr)


@pytest.fixture(autouse=True)
def parts() -> Iterator[None]:
    here = __name__
    rows: list[tuple[Any, str, Any]] = [
        (ALGORITHMS, "fourier", Algorithm(cls=f"{here}:SpectrumUpdate", summary="a few frequencies")),
        (OPTIMIZERS, "slower", Optimizer(cls=f"{here}:SlowerSign", arguments=steady, kept=("count",))),
        (WEIGHTINGS, "signal", Weighting(of_clean=signal)),
        (SAMPLERS, "deis", Sampler(cls="diffusers:DEISMultistepScheduler", title="DEIS")),
    ]
    for table, name, row in rows:
        table[name] = row
    yield
    for table, name, _ in rows:
        del table[name]


CASE = Case(
    "new parts",
    "lora",
    (
        "adapter.algorithm=fourier",
        "adapter.alpha=20",
        "optimizer.name=slower",
        "optimizer.lr=0.1",
        "objective.weighting=signal",
        "preview.scheduler=deis",
        "preview.every=2",
        "preview.prompts=[a cat]",
        "preview.steps=2",
    ),
)


def test_a_recipe_of_new_parts_trains_resumes_and_exports(
    tiny_folder: Path, pictures: Path, here: Path
) -> None:
    this = put_together(CASE, tiny_folder, pictures, here / "run")
    this.trainer.run()
    learned = this.adapter.weights()
    data = DataFacts("mycat", "", ["a cat"])
    metadata = run_metadata(this.recipe.public(), this.backbone, data, name="run", step=4)
    this.recipe.write_results(this.adapter, this.backbone, this.folder.path, "run", metadata)
    file = this.folder.path / "run.safetensors"

    # What PEFT computes is what the plain values say, and not nothing.
    for update, values in zip(this.adapter._updates.values(), learned.layers.values(), strict=True):
        inside = update._layer.get_delta_weight("default")
        assert torch.allclose(values.delta(), inside, atol=1e-6)
        assert torch.allclose(values.low_rank().delta(), inside, atol=1e-6)

    assert sum(values.delta().abs().max() > 0.01 for values in learned.layers.values()) > 10

    # The file holds it, and acts on a fresh model as it did in training.
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["ss_network_args"])["algo"] == "fourier"
    assert metadata["ss_optimizer"] == f"{__name__}.SlowerSign"
    fresh = load_backbone(ModelSection(name=str(tiny_folder)))
    applied = apply_lora(fresh, read_lora(file, fresh))
    for key, update in applied.updates.items():
        inside = update._layer.get_delta_weight("lora_0")
        assert torch.allclose(inside, learned.layers[key].delta(), atol=1e-6)

    # Interrupted after two of four steps, it ends with the same bits.
    broken = put_together(CASE, tiny_folder, pictures, here / "again", "training.steps=2")
    broken.trainer.run()
    resumed = put_together(CASE, tiny_folder, pictures, here / "again")
    assert resumed.trainer.resume()
    resumed.trainer.run()
    assert resumed.trainer.optimizer.param_groups[0]["count"] == 4
    ended = resumed.adapter.state()
    for name, value in this.adapter.state().items():
        assert torch.equal(ended[name], value), name


def test_a_new_weighting_is_its_formula() -> None:
    schedule = DDPMScheduler(num_train_timesteps=100)
    steps = torch.tensor([0, 10, 50, 99])
    # ᾱ on x₀ is ᾱ / snr = 1 − ᾱ on ε.
    weights = timestep_weights(steps, schedule, "epsilon", ObjectiveSection(weighting="signal"))
    assert torch.allclose(torch.as_tensor(weights), 1 - schedule.alphas_cumprod[steps], atol=1e-6)


def test_a_new_sampler_samples(tiny_folder: Path) -> None:
    sampler = Pictures.load(str(tiny_folder))
    own = sampler.backbone.scheduler
    assert type(make_scheduler("deis", own)) is DEISMultistepScheduler
    (sample,) = sampler("a cat", scheduler="deis", steps=2)
    assert "Sampler: DEIS," in parameters(sample.info())
