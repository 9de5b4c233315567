"""A VAE of the user's choice, in place of the model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL

from finetune.backbones.checkpoint import read_header
from finetune.backbones.kinds import kind_of
from finetune.backbones.part import check_complete_module, check_finite, load_part, read_json, unreadable
from finetune.backbones.quiet import quiet
from finetune.errors import ModelError

VAE = "vae"
_FIX = "Give a diffusers folder (of a model or of a VAE), a run folder or a single file with --vae."


def load_vae(given: Path, config: Path | None, allow_pickle: bool, notes: list[str]) -> Any:
    """Loads a VAE, in the type that its file has it in.

    Args:
        given: A diffusers folder of a model or of a VAE, a run folder with a whole model, or a file: a VAE
            alone or a checkpoint that has one, with the names of the original code or of diffusers.
        config: The folder of the VAE that it takes the place of, whose configuration says how a VAE in
            a file is built; None if there is none.
        allow_pickle: Whether the user allows weights in a pickle.
        notes: Gets a line that says which VAE is used.

    Raises:
        ModelError: If there is none, or it is damaged, or its latents are those of another family.
    """
    path = given.expanduser()
    if path.is_dir():
        places = (path / "model" / VAE, path / VAE, path)
        folder = next((place for place in places if (place / "config.json").is_file()), path)
        _check_kind(folder)
        vae = load_part(AutoencoderKL, folder, allow_pickle, notes)
    elif path.is_file() and config is not None:
        vae = _from_file(path, config, allow_pickle)
    else:
        raise ModelError(f"There is no VAE {str(given)!r}.", where="model.vae", fix=_FIX)
    if config is not None:
        _check_scale(vae, config, path)
    notes.append(f"The VAE is that of {given} (model.vae).")
    return vae


def _check_kind(folder: Path) -> None:
    kind = (
        read_json(folder / "config.json").get("_class_name") if (folder / "config.json").is_file() else None
    )
    if kind != "AutoencoderKL":
        raise ModelError("This folder holds no VAE of Stable Diffusion.", where=str(folder), fix=_FIX)


def _from_file(file: Path, config: Path, allow_pickle: bool) -> Any:
    header = read_header(file, allow_pickle)
    if not any("decoder.conv_in.weight" in key for key in header.shapes):
        kind = kind_of(header.shapes)
        other = kind and kind.what != "a VAE alone"  # one without a decoder is none either
        what = f"This file holds {kind.what}, and no VAE." if kind and other else "This file holds no VAE."
        raise ModelError(what, where=str(file), fix=_FIX)
    try:
        with quiet():
            vae = AutoencoderKL.from_single_file(
                str(file), config=str(config), local_files_only=True, torch_dtype=header.dtype
            )
    except Exception as error:  # whatever the conversion stumbles over: the file is not what it seems
        raise unreadable(file, error) from error
    check_complete_module(vae, file)
    check_finite(vae, str(file))
    return vae


def _check_scale(vae: Any, config: Path, path: Path) -> None:
    """Latents of two families differ by a factor, and the UNet knows only its own."""
    wanted = read_json(config / "config.json").get("scaling_factor", vae.config.scaling_factor)
    if abs(vae.config.scaling_factor - wanted) > 1e-6:
        raise ModelError(
            f"The VAE is made for another family of models: its scaling factor is "
            f"{vae.config.scaling_factor:g}, and this model's is {wanted:g}.",
            where=str(path),
            fix="Choose a VAE of the model's family.",
        )
