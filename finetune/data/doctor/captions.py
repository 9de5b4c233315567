"""Findings about captions: missing ones, words that fall off, words that all of them have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from finetune.backbones.text import truncated
from finetune.data.captions import names_a_side
from finetune.data.doctor.finding import DataSet, Finding
from finetune.data.layouts import ORPHAN
from finetune.data.notes import count

_FEWEST = 3  # captions of which a word may be said to be in all
_MOST_COMMON = 8
_COMMAS = 2  # a caption with as many is a list of tags
# Words that say nothing about a picture by themselves.
_FILLERS = frozenset(
    {"a", "an", "the", "of", "on", "in", "at", "by", "to", "is", "are", "and", "or", "with", "from", "for",
     "its", "it", "his", "her", "their", "this", "that", "there", "as", "photo", "picture", "image",
     "photograph"}
)  # fmt: skip


def uncaptioned(data: DataSet) -> Iterator[Finding]:
    """Pictures without a caption where others of their folder have one."""
    folders = {p.source and p.source.dir for p in data.captioned}
    without = [p for p in data.folder.pictures if not p.captioned and (p.source and p.source.dir) in folders]
    if found := {p.name: "" for p in without}:
        sentence = f"{count(len(found), 'picture')} without a caption, where others have one"
        yield Finding("uncaptioned", "warning", sentence, found, "Write NAME.txt beside each.")


def empty(data: DataSet) -> Iterator[Finding]:
    """Captions that say nothing."""
    found = {p.name: "" for p in data.folder.pictures if "" in p.captions}
    if found:
        sentence = f"{count(len(found), 'picture')} with an empty caption"
        yield Finding("empty", "warning", sentence, found, "Write what each shows, or remove the empty text.")


def mirrored(data: DataSet) -> Iterator[Finding]:
    """Captions that say left or right of pictures that are mirrored."""
    found = {p.name: "" for p in data.folder.pictures if data.flip and names_a_side(p.captions)}
    if found:
        sentence = f"{count(len(found), 'picture')} mirrored by data.flip, whose captions say left or right"
        fix = "Set data.flip=false, or leave these words out."
        yield Finding("left-right", "warning", sentence, found, fix)


def orphans(data: DataSet) -> Iterator[Finding]:
    """Texts that are named like no picture."""
    found = {one.name: "" for one in data.folder.ignored if one.reason == ORPHAN}
    if found:
        sentence = f"{count(len(found), 'text')} without a picture of the same name"
        yield Finding("orphans", "warning", sentence, found, "Name each like its picture, or remove it.")


def cut(data: DataSet) -> Iterator[Finding]:
    """Captions that are longer than the model sees, and the words that fall off."""
    found = {}
    for picture in data.folder.pictures:
        ends = [_end(data, caption) for caption in data.said(picture)]
        if lost := next(filter(None, ends), ""):
            found[picture.name] = f'lost: "{lost}"'
    if found:
        sentence = f"{count(len(found), 'caption')} cut after {(data.tokens - 2) * data.pieces} tokens"
        fix = "Say it shorter, or set model.max_tokens to 150 or 225."
        yield Finding("cut", "warning", sentence, found, fix)


def _end(data: DataSet, caption: str) -> str:
    length = (data.tokens - 2) * data.pieces + 2
    ends = (truncated(tokenizer, caption, length) for tokenizer in data.tokenizers)
    return max((end for end in ends if end), key=len, default="")


def untriggered(data: DataSet) -> Iterator[Finding]:
    """Captions of the main folder without the trigger word; other folders may teach other things."""
    captions = {p.name: data.said(p) for p in data.captioned if p.source is None}
    pattern = re.compile(rf"(?<!\w){re.escape(data.trigger)}(?!\w)", re.IGNORECASE)
    found = {name: "" for name, texts in captions.items() if not all(map(pattern.search, texts))}
    # A folder's name that no caption has is just a name.
    if data.trigger and found and (data.asked or len(found) < len(captions)):
        sentence = f'{count(len(found), "caption")} without the trigger word "{data.trigger}"'
        yield Finding("untriggered", "warning", sentence, found, "Add it to them.")


def everywhere(data: DataSet) -> Iterator[Finding]:
    """Words that every caption has: what they mean becomes one with the subject."""
    captions = {c for p in data.captioned for c in p.captions if c}
    if len(captions) < _FEWEST:
        return
    shared = set.intersection(*(set(_words(caption)) for caption in captions))
    shared -= {*_FILLERS, *_words(data.trigger)}
    if shared:
        order = [word for word in dict.fromkeys(_words(min(captions))) if word in shared]
        words = ", ".join(f'"{word}"' for word in order[:_MOST_COMMON])
        sentence = f"in every caption, so learned as one with the subject: {words}"
        yield Finding("everywhere", "note", sentence, fix="Leave out what should stay changeable.")


def tags(data: DataSet) -> Iterator[Finding]:
    """The most common tags, where captions are lists of them."""
    captions = [c for p in data.captioned for c in p.captions]
    listed = [caption for caption in captions if caption.count(",") >= _COMMAS]
    if 2 * len(listed) <= len(captions):
        return
    apart = ({tag.strip() for tag in caption.split(",")} - {""} for caption in listed)
    counts = Counter(tag for tags in apart for tag in sorted(tags))
    common = ", ".join(f"{tag} ({number})" for tag, number in counts.most_common(_MOST_COMMON))
    yield Finding("tags", "note", f"{count(len(counts), 'tag')}, the most common: {common}")


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.lower())
