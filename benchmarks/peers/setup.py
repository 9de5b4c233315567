"""Makes what the peers need: their code, environments, a model and pictures (10 GB). What exists is kept."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.peers.place import Place
from benchmarks.pictures import draw_pairs, draw_pictures
from finetune.cli.terminal import quiet_libraries
from finetune.files import whole_folder

CAPTION, PICTURES, SIZE = "a photo of mycat", 16, 512
REPOSITORIES = {
    "diffusers": "https://github.com/huggingface/diffusers",
    "kohya": "https://github.com/kohya-ss/sd-scripts",
}
# Only these files: the repositories are large, and kohya's holds programs for Windows.
_FILES = {
    "diffusers": ("examples/dreambooth", "examples/controlnet"),
    "kohya": ("*.py", "library", "networks"),
}
# diffusers' scripts get the very versions that this project is tested with.
_LIBRARIES = ("diffusers", "transformers", "peft", "accelerate", "bitsandbytes", "tensorboard", "safetensors")
_PACKAGES = {
    "diffusers": (*(f"{name}=={version(name)}" for name in _LIBRARIES), "datasets"),
    # The first three as kohya's requirements.txt has them.
    "kohya": (
        *("transformers==4.54.1", "diffusers==0.32.1", "accelerate==1.6.0", "huggingface_hub<1", "toml"),
        *("safetensors", "einops", "voluptuous", "opencv-python-headless", "imagesize", "rich", "ftfy"),
        *("tensorboard", "sentencepiece", "easygui"),
    ),
}


def set_up(place: Place, sources: dict[str, str], tell: Callable[[str], None] = print) -> None:
    """Makes all that is missing in a folder.

    Args:
        place: The folder.
        sources: Where a peer's Git repository is, an address or a folder; by peer.
        tell: Called with a line before each part.

    Raises:
        CalledProcessError: If Git or pip fails; it has told why.
    """
    for peer, packages in _PACKAGES.items():
        tell(f"{peer}: code")
        code(place, peer, sources[peer])
        tell(f"{peer}: environment")
        environment(place, peer, packages)
    tell("model")
    from benchmarks.models import random_model  # here, since measuring needs none of the libraries it loads

    quiet_libraries()
    random_model("sd1", place.root, "cuda" if torch.cuda.is_available() else "cpu")
    tell("pictures")
    pictures(place)


def code(place: Place, peer: str, source: str) -> None:
    """Copies the newest files of a peer's repository, and their revision."""
    folder = place.code(peer)
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as aside, tempfile.TemporaryDirectory() as name:
        if Path(source).is_dir():
            git = ("git", "-C", source)
        else:
            subprocess.run(["git", "clone", "--quiet", "--bare", "--depth=1", source, name], check=True)
            git = ("git", "-C", name)
        packed = subprocess.run(
            [*git, "archive", "HEAD", "--", *_FILES[peer]], capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", aside], input=packed.stdout, check=True)
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        (aside / "REVISION").write_text(head.stdout, encoding="utf-8")


def environment(place: Place, peer: str, packages: tuple[str, ...]) -> None:
    """Installs a peer's packages, with the same PyTorch as here, into an environment of its own."""
    python, complete = place.python(peer), place.root / peer / "installed"
    if complete.exists():
        return
    subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
    same = f"torch=={version('torch').partition('+')[0]}"
    subprocess.run([python, "-m", "pip", "install", "--quiet", same, *packages], check=True)
    complete.touch()


def pictures(place: Place) -> None:
    """Draws pictures in each layout, and puts the tokenizer where kohya looks for it."""
    for folder in (place.pictures, place.repeated / f"1_{CAPTION}"):  # kohya takes a folder's name as caption
        if not folder.exists():
            draw_pictures(folder, SIZE, PICTURES)
    if not place.pairs.exists():
        draw_pairs(place.pairs, SIZE, PICTURES, CAPTION)
    link = place.tokenizers / "openai_clip-vit-large-patch14"
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(place.model / "tokenizer")
