"""`finetune pretrain`: makes the bundled model again."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.terminal import quiet_loading, tell
from finetune.errors import ModelError


def _pretrain(output_dir: Path, stage: str) -> None:
    from finetune.storybook.pretrain import train_unet, train_vae

    quiet_loading()
    vae = train_vae(output_dir / "vae-stage") if stage != "unet" else output_dir / "vae-stage" / "vae"
    if not (vae / "config.json").exists():
        raise ModelError(
            "There is no finished autoencoder to train the UNet on.",
            where=str(vae),
            mend="Run finetune pretrain --stage vae first, or leave --stage out.",
        )
    if stage != "vae":
        model = train_unet(output_dir / "unet-stage", vae)
        tell(f"The model is in {model}. Look at it: finetune sample 'a red cat on snow' --model {model}")


pretrain_command = click.Command(
    "pretrain",
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
    ],
)
