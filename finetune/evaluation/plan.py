"""Which pictures are made: the same prompts with the subject and with its class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.config.evaluation import JudgedSection
from finetune.errors import ConfigError

ANYTHING = "a photo"
"""What stands for the class where none is known."""


@dataclass(frozen=True)
class Asked:
    """One picture to make, with the subject and with its class.

    Attributes:
        group: Of the words that it must show.
        place: Which words of the group.
        seed: Its seed.
    """

    group: str
    place: int
    seed: int


@dataclass(frozen=True)
class Plan:
    """The prompts of an evaluation; a function of its settings alone.

    Attributes:
        prompt: Shows the subject.
        class_prompt: Shows its class.
        contexts: Groups of words that follow either.
        asked: What is made of both.
        unrelated: Prompt and seed of other pictures.
    """

    prompt: str
    class_prompt: str
    contexts: dict[str, list[str]]
    asked: tuple[Asked, ...]
    unrelated: tuple[tuple[str, int], ...]

    @classmethod
    def of(
        cls, settings: JudgedSection, prompt: str, class_prompt: str | None, unrelated: Sequence[str] = ()
    ) -> Plan:
        """Numbers the pictures; each has a seed of its own.

        Args:
            settings: How many, of what.
            prompt: Shows the subject.
            class_prompt: Shows its class, if it is known.
            unrelated: Show neither.
        """
        words = [(group, place) for group, texts in settings.contexts.items() for place in range(len(texts))]
        pairs = [pair for _ in range(settings.num) for pair in words]
        asked = [Asked(group, place, settings.seed + number) for number, (group, place) in enumerate(pairs)]
        others = [text for _ in range(settings.num) for text in unrelated if text != class_prompt]
        seeded = [(text, settings.seed + number) for number, text in enumerate(others)]
        known = class_prompt or ANYTHING
        return cls(prompt, known, settings.contexts, tuple(asked), tuple(seeded))

    @property
    def seeds(self) -> list[int]:
        """The seed of each picture that is asked for."""
        return [one.seed for one in self.asked]

    def prompts(self, beginning: str) -> list[str]:
        """The prompts of what is asked for.

        Args:
            beginning: `prompt` or `class_prompt`.
        """
        return [f"{beginning} {self.contexts[one.group][one.place]}" for one in self.asked]

    def of_group(self, group: str) -> list[int]:
        """The places of a group's pictures among all."""
        return [number for number, one in enumerate(self.asked) if one.group == group]


def subject_prompt(
    settings: JudgedSection, captions: Iterable[str], where: Path, key: str = "evaluation.prompt"
) -> str:
    """The prompt that shows the subject.

    Args:
        settings: May name it.
        captions: Of the training pictures.
        where: They are.
        key: Of the setting.

    Raises:
        ConfigError: If none is set and the pictures have different captions.
    """
    if settings.prompt is not None:
        return settings.prompt
    different = set(captions)
    if len(different) == 1 and (caption := different.pop()):
        return caption
    raise ConfigError(
        "The pictures have different captions, or none, so that no prompt is known that shows the subject.",
        where=str(where),
        fix=f"Give one with --set '{key}=a photo of mycat'.",
    )
