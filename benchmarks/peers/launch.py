"""Runs a script of diffusers or kohya in an environment that it was not quite written for.

`python launch.py SCRIPT ARGUMENTS…`, in that environment. The script itself is unchanged; around it:

- diffusers' scripts demand the library of their own day, and take the released one here;
- where torchvision is missing, a stand-in for its transforms is found (`standins/torchvision`);
- kohya's LoRA adapts attention only, as the others' do, not also feed-forward layers and projections.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def accept_any_version() -> None:
    """Turns off the check of diffusers' version."""
    import diffusers.utils

    utils: Any = diffusers.utils
    utils.check_min_version = lambda version: None


def stand_in_for_torchvision() -> None:
    """Makes the transforms importable where torchvision is missing."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    from transformers.utils.import_utils import is_torchvision_available

    is_torchvision_available()  # it keeps the answer: transformers needs more of it than is in the stand-in
    sys.path.append(str(HERE / "standins"))


def adapt_attention_only() -> None:
    """Leaves kohya's LoRA the layers inside of its UNet's attention."""
    from networks.lora import LoRANetwork  # type: ignore[import-not-found]  # of kohya's repository

    LoRANetwork.UNET_TARGET_REPLACE_MODULE = ["CrossAttention"]


def main() -> None:
    """The command line."""
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    accept_any_version()
    stand_in_for_torchvision()
    if "networks.lora" in sys.argv:
        adapt_attention_only()
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
