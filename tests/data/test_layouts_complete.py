"""Whatever a folder holds: no file that is named like a picture vanishes silently."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.layouts import list_folder
from finetune.errors import DataError

STEMS = st.sampled_from(["a", "b", "a-masklabel", "a-condlabel", "b-masklabel", "猫", "line\nbreak", "c.d"])
FOLDERS = st.sampled_from(["", "img/", "img/10_sks cat/", "0_off/", "3_x/", "reg/1_cat/", "deep/er/", "reg/"])
PICTURES = st.sets(
    st.tuples(FOLDERS, STEMS, st.sampled_from([".png", ".JPG", ".heic", ".tiff"])), min_size=1, max_size=8
)
TEXTS = st.lists(
    st.tuples(FOLDERS, STEMS, st.sampled_from([".txt", ".caption"]), st.text(max_size=5)), max_size=4
)
FILES = st.tuples(FOLDERS, STEMS).map(lambda parts: f"{parts[0]}{parts[1]}.png")
MORE = {"text": st.text(max_size=5), "conditioning_image": STEMS.map(lambda stem: f"{stem}.JPG")}
ROWS = st.lists(st.fixed_dictionaries({"file_name": FILES}, optional=MORE), max_size=5)
CONCEPTS = st.lists(
    st.fixed_dictionaries({"path": FOLDERS, "text": st.just({}), "enabled": st.booleans()}), max_size=3
)


@settings(max_examples=40, deadline=None)
@given(PICTURES, TEXTS, FOLDERS, st.none() | ROWS, st.none() | ROWS, st.none() | CONCEPTS, st.booleans())
def test_every_picture_is_found_or_named(
    pictures: set[tuple[str, str, str]],
    texts: list[tuple[str, str, str, str]],
    where: str,
    rows: list[dict[str, str]] | None,
    entries: list[dict[str, str]] | None,
    concepts: list[dict[str, object]] | None,
    lines: bool,
) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "pictures"
        paths = {root / f"{folder}{stem}{suffix}" for folder, stem, suffix in pictures}
        for path in (*paths, root / where / "x"):
            path.parent.mkdir(parents=True, exist_ok=True)
        for path in paths:
            path.write_bytes(b"")
        for folder, stem, suffix, text in texts:
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / f"{folder}{stem}{suffix}").write_bytes(text.encode("utf-8", "replace"))
        if rows is not None:
            (root / where / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if entries is not None:
            content = {entry["file_name"]: {"caption": entry.get("text")} for entry in entries}
            (root / where / "meta_cap.json").write_text(json.dumps(content))
        if concepts is not None:
            (root / "concepts.json").write_text(json.dumps(concepts))
        try:
            listed = list_folder(root, lines=lines)
        except DataError:
            if concepts:  # of which one may not be there, or none enabled
                return
            raise
        found = [one.path for one in listed.found]
        named = {skipped.path for skipped in listed.skipped} | {one.mask for one in listed.found}
        assert paths <= {*found} | named
        assert not {*found} & named and len(set(found)) == len(found)
        assert all(one.repeats >= 1 and "masklabel" not in one.path.name for one in listed.found)
        assert [one.name for one in listed.skipped] == sorted(one.name for one in listed.skipped)
        assert "10_sks" not in "".join(one.default or "" for one in listed.found)
