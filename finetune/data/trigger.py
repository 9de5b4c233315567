"""ai-toolkit's `[trigger]` in captions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from finetune.data.layouts import Found, Listing
from finetune.data.notes import count
from finetune.data.origin import Origin

_TRIGGER = "[trigger]"


def with_trigger(listed: Listing[Origin], prompt: str | None) -> tuple[list[Found[Origin]], list[str]]:
    """The pictures with `[trigger]` in their captions replaced, and notes about it.

    The trigger word is `prompt` without "a photo of"; without a prompt the layout's, or the folder's name.
    """
    found: list[Found[Origin]] = []
    words: Counter[str] = Counter()
    for one in listed.found:
        if any(_TRIGGER in caption for caption in one.captions):
            word = (prompt or one.default or listed.root.resolve().name).removeprefix("a photo of ")
            words[word] += 1
            one = replace(one, captions=tuple(c.replace(_TRIGGER, word) for c in one.captions))
        found.append(one)
    return found, [f'{_TRIGGER} became "{word}" in {count(n, "caption")}' for word, n in words.items()]
