"""The optimizers, one row each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.config.base import Fault
from finetune.config.choices import Choices, Row

if TYPE_CHECKING:
    from finetune.config.optimizer import OptimizerSection

BETAS, LION_BETAS = (0.9, 0.999), (0.9, 0.99)
EPS = 1e-8
D0, D_COEF = 1e-6, 1.0
"""Defaults of settings that are None if not given, so that one given without effect is noticed."""

PRODIGY_LR, PRODIGY_LEAST_LR = 1.0, 0.1


@dataclass(frozen=True, kw_only=True)
class Optimizer(Row):
    """One optimizer.

    Attributes:
        cls: Its class, "module:name"; in kohya's metadata with a dot.
        arguments: What the class is called with, besides the parameter groups.
        faults: Settings of the section that it cannot work with.
        lr: Learning rate if none is given; None for the preset's.
        kept: Values of a parameter group that are state, and so belong in a checkpoint.
        averages: Whether the result is an average of the weights that it keeps itself.
        separable: Whether a parameter's step depends on nothing but its own gradient and state.
        rounds_bf16: Whether weights in bf16 are rounded so that small steps are not lost.
        only_cuda: Whether it needs a CUDA GPU.
        state_bytes: Bytes of state per weight, at least.
    """

    cls: str
    arguments: Callable[[OptimizerSection], Mapping[str, Any]]
    faults: Callable[[OptimizerSection], Iterator[Fault]] = lambda section: iter(())
    lr: float | None = None
    kept: tuple[str, ...] = ()
    averages: bool = False
    separable: bool = True
    rounds_bf16: bool = False
    only_cuda: bool = False
    state_bytes: int = 4


def _adam(section: OptimizerSection) -> dict[str, Any]:
    return {
        "betas": section.betas or BETAS,
        "eps": section.eps or EPS,
        "weight_decay": section.weight_decay,
    }


def _fused_adam(section: OptimizerSection) -> dict[str, Any]:
    return {"fused": True, **_adam(section)}


def _adafactor(section: OptimizerSection) -> dict[str, Any]:
    # transformers' class, since only there the learning rate is the one that is set: PyTorch's takes
    # steps relative to each parameter's size, and none above 1/√step.
    return {"scale_parameter": False, "relative_step": False, "weight_decay": section.weight_decay}


def _lion(section: OptimizerSection) -> dict[str, Any]:
    return {"betas": section.betas or LION_BETAS, "weight_decay": section.weight_decay}


def _prodigy(section: OptimizerSection) -> dict[str, Any]:
    # With the options that its authors recommend for diffusion models.
    own = {"d0": section.d0 or D0, "d_coef": section.d_coef or D_COEF}
    return {**own, "use_bias_correction": True, "safeguard_warmup": True, **_adam(section)}


def _prodigy_faults(section: OptimizerSection) -> Iterator[Fault]:
    if section.lr < PRODIGY_LEAST_LR:
        yield Fault(
            f"Prodigy finds the learning rate itself and multiplies it by optimizer.lr; with {section.lr:g} "
            "it would hardly learn.",
            "optimizer.lr",
            f"Leave it out, or set {PRODIGY_LR:g}; optimizer.d_coef scales the estimate.",
        )
    for key in ("text_encoder_lr", "text_encoder_2_lr", "embedding_lr"):
        if getattr(section, key) not in (None, section.lr):
            yield Fault(
                "Prodigy has one learning rate for everything that is trained.",
                f"optimizer.{key}",
                f"Remove it, or use an optimizer other than {section.name}.",
            )
    if any(factor not in (0, 1) for factor in section.block_lr.values()):
        yield Fault(
            "Prodigy has one learning rate for everything that is trained: a factor can only be 0 or 1.",
            "optimizer.block_lr",
            f"Use 0 to freeze parts, or use an optimizer other than {section.name}.",
        )


def _schedule_free_faults(section: OptimizerSection) -> Iterator[Fault]:
    if section.schedule != "constant":
        yield Fault(
            "Schedule-free AdamW averages the weights instead of lowering the learning rate.",
            "optimizer.schedule",
            "Leave it constant (a warmup is fine), or use optimizer.name=adamw.",
        )
    if section.betas is not None and section.betas[0] == 0:
        yield Fault(
            "Schedule-free AdamW cannot have a β1 of 0: gradients are taken between its average and its "
            "latest weights.",
            "optimizer.betas",
            "Give a β1 above 0; 0.9 is usual.",
        )


_ADAM = ("betas", "eps")

OPTIMIZERS = Choices(
    "optimizer.name",
    {
        # Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).
        "adamw": Optimizer(cls="torch.optim.adamw:AdamW", arguments=_fused_adam, settings=_ADAM),
        # The same with moments in bf16, rounded at random (Zamirai et al. 2020, arXiv:2010.06192).
        "adamw_bf16": Optimizer(
            cls="finetune.training.adamw_bf16:AdamWBF16",
            arguments=_adam,
            settings=_ADAM,
            rounds_bf16=True,
        ),
        # AdamW with block-wise quantized state (Dettmers et al. 2022, arXiv:2110.02861).
        "adamw8bit": Optimizer(
            cls="bitsandbytes.optim.adamw:AdamW8bit", arguments=_adam, settings=_ADAM, state_bytes=2
        ),
        # The same with its state in memory that moves between GPU and CPU (arXiv:2305.14314, section 3).
        "paged_adamw8bit": Optimizer(
            cls="bitsandbytes.optim.adamw:PagedAdamW8bit",
            arguments=_adam,
            settings=_ADAM,
            only_cuda=True,
            state_bytes=2,
        ),
        # Adam without momentum and with factored second moments (Shazeer & Stern 2018, arXiv:1804.04235).
        "adafactor": Optimizer(cls="transformers.optimization:Adafactor", arguments=_adafactor),
        # The sign of a momentum (Chen et al. 2023, arXiv:2302.06675).
        "lion": Optimizer(cls="bitsandbytes.optim.lion:Lion", arguments=_lion, settings=("betas",)),
        # Adam that estimates its learning rate (Mishchenko & Defazio 2023, arXiv:2306.06101).
        "prodigy": Optimizer(
            cls="prodigyopt.prodigy:Prodigy",
            arguments=_prodigy,
            settings=(*_ADAM, "d0", "d_coef"),
            faults=_prodigy_faults,
            lr=PRODIGY_LR,
            separable=False,
            kept=("k", "d", "d_max", "d_hat", "d_numerator", "d_denom"),
        ),
        # AdamW with an average in place of a schedule (Defazio et al. 2024, arXiv:2405.15682).
        "schedule_free_adamw": Optimizer(
            cls="schedulefree.adamw_schedulefree:AdamWScheduleFree",
            arguments=_adam,
            settings=_ADAM,
            faults=_schedule_free_faults,
            kept=("k", "weight_sum", "lr_max", "scheduled_lr", "train_mode"),
            averages=True,
            separable=False,
        ),
    },
)
