"""Each finding about captions on captions made for it, and none on others."""

from __future__ import annotations

from finetune.backbones.clip_vocabulary import clip_tokenizers
from finetune.config.captions import CaptionsSection
from tests.data.doctor.conftest import Find, scene

CLEAN = {
    "clean0": "mycat on a sofa",
    "clean1": "mycat in snow",
    "clean2": "a red mycat",
    "clean3": "mycat outside",
}


def test_clean_captions_are_clean(find: Find) -> None:
    assert find({}, CLEAN, trigger="mycat", tokenizers=clip_tokenizers("sdxl")) == {}


def test_missing_captions_and_texts_without_a_picture(find: Find) -> None:
    found = find({"more.png": scene(9)}, {**CLEAN, "clean3": "", "gone": "a cat"}, trigger="mycat")
    assert found["uncaptioned"].files == {"more.png": ""}
    assert found["empty"].files == {"clean3.png": ""}
    assert found["orphans"].files == {"gone.txt": ""}
    assert found["orphans"].severity == "warning"


def test_the_words_that_fall_off_are_told(find: Find) -> None:
    fit = "my cat " + "cat " * 72 + "cat"  # 75 words of one token each
    found = find(
        {},
        {**CLEAN, "clean0": f"{fit} tree house", "clean1": fit},
        tokenizers=clip_tokenizers("sd1"),
        tokens=77,
    )
    assert found["cut"].files == {"clean0.png": 'lost: "tree house"'}
    assert "75 tokens" in found["cut"].sentence


def test_longer_captions_fit_into_more_pieces(find: Find) -> None:
    long = {**CLEAN, "clean0": "mycat " + "cat " * 140}
    assert "cut" not in find({}, long, tokenizers=clip_tokenizers("sd1"), pieces=2)


def test_the_trigger_word_is_missing_from_some(find: Find) -> None:
    found = find({}, {**CLEAN, "clean1": "mycats in snow", "clean2": "a MyCat, red"}, trigger="mycat")
    assert found["untriggered"].files == {"clean1.png": ""}


def test_a_folder_name_that_no_caption_has_is_no_trigger(find: Find) -> None:
    assert "untriggered" not in find({}, CLEAN, trigger="pictures")


def test_a_trigger_that_was_asked_for_must_be_there(find: Find) -> None:
    assert len(find({}, CLEAN, trigger="ohwx", asked=True)["untriggered"].files) == 4


def test_captions_are_judged_as_samples_have_them(find: Find) -> None:
    varied = CaptionsSection(prefix="ohwx")
    assert "untriggered" not in find({}, CLEAN, trigger="ohwx", asked=True, varied=varied)


def test_left_and_right_are_wrong_of_mirror_images(find: Find) -> None:
    sided = {**CLEAN, "clean0": "mycat on the Left", "clean1": "mycat, leftover food", "clean3": "upright"}
    found = find({}, sided, trigger="mycat", flip=True)
    assert found["left-right"].files == {"clean0.png": ""}
    assert found["left-right"].severity == "warning"


def test_left_and_right_are_right_of_pictures_that_are_not_mirrored(find: Find) -> None:
    assert "left-right" not in find({}, {**CLEAN, "clean0": "mycat on the left"}, trigger="mycat")


def test_words_everywhere_and_tags(find: Find) -> None:
    tags = {
        f"clean{i}": f"mycat, blue collar, the {place}"
        for i, place in enumerate(["sea", "sea", "hill", "snow"])
    }
    found = find({}, tags, trigger="mycat")
    assert found["everywhere"].sentence.endswith(': "blue", "collar"')
    assert (
        found["tags"].sentence
        == "5 tags, the most common: blue collar (4), mycat (4), the sea (2), the hill (1), the snow (1)"
    )
