"""Which columns of a data set mean what."""

import pytest
from datasets import Features, Image, List, Value

from finetune.config import DataSection, PairsSection
from finetune.data.rows.columns import Columns, bytes_and_path, captions_of, find_columns
from finetune.errors import DataError

TEXT, STRUCT = Value("string"), {"bytes": Value("binary"), "path": Value("string")}


def found(columns: dict[str, object], **settings: object) -> Columns:
    kind = PairsSection if {"control_column", "preprocess"} & settings.keys() else DataSection
    return find_columns(Features(columns), kind(**settings), "there")


@pytest.mark.parametrize("image", ["image", "img", "picture", "jpg", "png", "webp", "Image"])
@pytest.mark.parametrize("caption", ["text", "caption", "captions", "prompt", "txt", "Text"])
def test_the_usual_names_in_any_case(image, caption):
    assert found({"label": Value("int64"), image: Image(), caption: TEXT}) == Columns(image, caption)


@pytest.mark.parametrize("type_of_image", [Image(), STRUCT, Value("binary"), Value("large_binary"), TEXT])
@pytest.mark.parametrize("type_of_text", [TEXT, Value("large_string"), List(TEXT)])
def test_every_type_that_pictures_and_captions_are_stored_as(type_of_image, type_of_text):
    assert found({"image": type_of_image, "text": type_of_text}) == Columns("image", "text")


def test_a_usual_name_with_an_unfit_type_is_something_else():
    assert found({"image": Image(), "text": Value("int64"), "mask": TEXT}) == Columns("image", mask="mask")
    assert found({"image": Image(), "mask": Value("float32")}) == Columns("image")


def test_the_only_pictures_are_the_pictures_whatever_the_name():
    assert found({"foto": Image(), "id": TEXT}) == Columns("foto")
    assert found({"foto": STRUCT, "mask": Image()}) == Columns("foto", mask="mask")
    with pytest.raises(
        DataError, match=r"(?s)No column is known.*a \(picture\), b \(picture\).*image_column"
    ):
        found({"a": Image(), "b": Image()})


def test_control_pictures_are_sought_where_they_are_wanted():
    columns = {"image": Image(), "conditioning_image": Image(), "other": Image()}
    assert found(columns) == Columns("image")
    assert find_columns(Features(columns), PairsSection(), "there").control == "conditioning_image"
    assert found(columns, preprocess="edges").control is None
    assert found(columns, control_column="other").control == "other"


def test_what_is_named_wins():
    columns = {"image": Image(), "img": Image(), "b": Image(), "text": TEXT, "prompt": TEXT, "d": TEXT}
    assert found(columns, image_column="b", caption_column="d") == Columns("b", "d")
    assert found(columns, image_column="img", caption_column="prompt") == Columns("img", "prompt")


@pytest.mark.parametrize(
    ("columns", "settings", "words", "setting"),
    [
        ({"image": Image(), "png": Image()}, {}, "Several columns may be the image: image, png", "image"),
        (
            {"image": Image(), "text": TEXT, "prompt": TEXT},
            {},
            "Several columns may be the caption",
            "caption",
        ),
        ({"text": TEXT}, {}, "No column is known to hold the pictures", "image"),
        ({"image": Image()}, {"image_column": "imge"}, "There is no column 'imge'", "image"),
        ({"image": Image(), "n": Value("int64")}, {"caption_column": "n"}, "does not hold text", "caption"),
        ({"image": Image(), "n": List(Image())}, {"mask_column": "n"}, "does not hold pictures", "mask"),
        ({"image": Image()}, {"mask_column": "image"}, "'image' is named for two uses", "image"),
    ],
)
def test_what_cannot_be_decided_lists_the_columns_with_their_types(columns, settings, words, setting):
    with pytest.raises(DataError) as caught:
        found(columns, **settings)
    assert words in caught.value.what and caught.value.where == "there"
    types = {"image": "picture", "png": "picture", "text": "string", "prompt": "string", "n": ""}
    assert all(f"{name} ({types[name]}" in caught.value.what for name in columns)
    assert f"data.{setting}_column" in caught.value.fix


def test_captions_of_a_cell():
    assert captions_of("a  red\ncat", lines=False) == ("a red cat",)
    assert captions_of("a cat\n\na dog", lines=True) == ("a cat", "a dog")
    assert captions_of(["a cat", None, "a dog", "a cat"], lines=False) == ("a cat", "a dog", "a cat")
    assert captions_of("", lines=False) == ("",)
    assert captions_of(None, lines=False) == captions_of([], lines=False) == ()


def test_what_a_cell_holds_of_a_picture():
    assert bytes_and_path({"bytes": b"1", "path": "a.png"}) == (b"1", "a.png")
    assert bytes_and_path(b"1") == (b"1", None)
    assert bytes_and_path("a.png") == (None, "a.png")
    assert bytes_and_path(None) == (None, None)
