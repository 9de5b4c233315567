"""`python -m storybook.make`: makes the bundled model again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from finetune.cli.terminal import quiet_loading, tell
from finetune.errors import ConfigError, ModelError


def _pretrain(output_dir: Path, stage: str, start: Path | None, **changes: float | None) -> None:
    from storybook.pretrain import FURTHER_STAGE, UNET_STAGE, VAE_STAGE, train_unet, train_vae

    quiet_loading()
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if (given and stage == "all") or (start and stage != "unet"):
        raise ConfigError(
            "These settings belong to one stage.",
            where="--stage",
            mend="Say which: --stage vae or --stage unet (--start is for unet only).",
        )
    vae = output_dir / "vae-stage" / "vae"
    if stage != "unet":
        train_vae(output_dir / "vae-stage", replace(VAE_STAGE, **given))
    if not (vae / "config.json").exists():
        raise ModelError(
            "There is no finished autoencoder to train the UNet on.",
            where=str(vae),
            mend="Run python -m storybook.make --stage vae first, or leave --stage out.",
        )
    if stage != "vae":
        model = train_unet(output_dir / "unet-stage", vae, replace(UNET_STAGE, **given), start=start)
        if stage == "all":
            model = train_unet(output_dir / "further-stage", vae, FURTHER_STAGE, start=model)
        tell(f"The model is in {model}. Look at it: finetune sample 'a red cat on snow' --model {model}")


command = click.Command(
    "python -m storybook.make",
    callback=_pretrain,
    help="Make the bundled model storybook anew: autoencoder, then UNet and text encoder (hours). "
    "Called again, it goes on where it stopped.",
    params=[
        click.Option(
            ["--output-dir"],
            type=click.Path(path_type=Path),
            default=Path("runs/storybook"),
            show_default=True,
            help="Folder of the stages.",
        ),
        click.Option(
            ["--stage"],
            type=click.Choice(["all", "vae", "unet"]),
            default="all",
            show_default=True,
            help="Which part to train; unet needs a finished vae stage in the folder.",
        ),
        click.Option(
            ["--start"],
            type=click.Path(path_type=Path),
            metavar="MODEL",
            help="Train this model's UNet and text encoder further instead of new ones.",
        ),
        click.Option(["--pictures"], type=click.IntRange(min=1), help="Pictures to draw for the stage."),
        click.Option(["--steps"], type=click.IntRange(min=1), help="Optimizer steps of the stage."),
        click.Option(["--batch-size"], type=click.IntRange(min=1), help="Pictures a step."),
        click.Option(["--lr"], type=click.FloatRange(0, 10, min_open=True), help="Highest learning rate."),
    ],
)

if __name__ == "__main__":
    command()
