"""Opening data sets: splits, what is refused, and that `datasets` does not speak to the user."""

from __future__ import annotations

import errno
import logging
import pickle
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from datasets import Dataset, Image
from huggingface_hub import constants
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
from pyarrow import parquet

from finetune.config import DataSection
from finetune.data.rows.library import explained, quiet_datasets
from finetune.data.rows.opening import builder_of, open_dataset
from finetune.errors import DataError, FinetuneError, PlaceError
from tests.data.conftest import painted
from tests.data.rows.made import FORMS, cells, dataset, of_folder


def opened(place: Path, split: str = "train") -> Dataset:
    return open_dataset(place, DataSection(split=split)).dataset


@pytest.mark.parametrize("form", ["save_to_disk with splits", "folder of Parquet"])
def test_splits(form: str, mycat: Path, tmp_path: Path) -> None:
    place = FORMS[form](of_folder(mycat), tmp_path / "set", mycat)
    assert len(opened(place)) == 5
    assert len(opened(place, "test")) == 1
    with pytest.raises(
        DataError, match=r"(?s)no split 'tset'; there is (train, test|test, train)\..*data\.split="
    ):
        opened(place, "tset")


def test_parts_of_splits(mycat: Path, tmp_path: Path) -> None:
    place = FORMS["folder of Parquet"](of_folder(mycat), tmp_path / "set", mycat)
    names = [
        row["path"]
        for row in opened(place, "train[1:3]+test").cast_column("image", Image(decode=False))["image"]
    ]
    assert names == ["1.png", "2.png", "0.png"]
    with pytest.raises(DataError, match="no split 'tset"):
        opened(place, "tset[:3]")
    with pytest.raises(DataError, match="cannot be read"):
        opened(place, "train[:many]")
    saved = FORMS["save_to_disk"](of_folder(mycat), tmp_path / "saved", mycat)
    with pytest.raises(DataError, match=r"no split 'train\[:3\]'; there is train\."):
        opened(saved, "train[:3]")


def test_nothing_reaches_the_terminal_and_all_is_as_before(
    mycat: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    place = FORMS["folder of Parquet"](of_folder(mycat), tmp_path / "set", mycat)
    datasets.enable_progress_bars()
    enable_progress_bars()  # a command of another test may have turned them off
    datasets.logging.set_verbosity(logging.INFO)
    capfd.readouterr()
    try:
        opened(place)
        empty = pa.table({"image": pa.array([], pa.binary())})
        parquet.write_table(empty, tmp_path / "empty.parquet")
        with pytest.raises(DataError, match="cannot be read"):  # which it also logs
            opened(tmp_path / "empty.parquet")
        assert capfd.readouterr() == ("", "") and not caplog.records
        assert not datasets.are_progress_bars_disabled() and not are_progress_bars_disabled()
        assert datasets.logging.get_verbosity() == logging.INFO
        with quiet_datasets():
            assert datasets.are_progress_bars_disabled() and are_progress_bars_disabled()
    finally:
        datasets.logging.set_verbosity_warning()


def test_pickles_are_not_read(tmp_path: Path) -> None:
    """The library has a format for them, which runs what is in them."""
    file = tmp_path / "rows.pkl"
    file.write_bytes(pickle.dumps({"image": ["a"]}))
    with quiet_datasets(), pytest.raises(DataError, match=r"kind 'pandas' are not read"):
        builder_of("pandas", data_files=str(file))


def test_a_script_is_not_run(tmp_path: Path) -> None:
    place = tmp_path / "set"
    place.mkdir()
    (place / "set.py").write_text("raise SystemExit('it ran')")
    painted(8, 8).save(tmp_path / "1.png")
    dataset({"image": cells([tmp_path / "1.png"])}, image=Image()).to_parquet(str(place / "rows.parquet"))
    with pytest.raises(DataError, match="a Python script, which is never run"):
        opened(place)


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
@pytest.mark.parametrize("form", ["save_to_disk", "one Parquet", "folder of Parquet", "folder of Arrow"])
def test_damaged_files(form: str, damage: str, mycat: Path, tmp_path: Path) -> None:
    place = FORMS[form](of_folder(mycat), tmp_path / "set", mycat)
    files = (
        [place] if place.is_file() else [f for f in place.rglob("*") if f.suffix in (".parquet", ".arrow")]
    )
    content = files[0].read_bytes()
    harm = {"cut": content[: len(content) // 2], "empty": b"", "noise": bytes(len(content))}
    files[0].write_bytes(harm[damage])
    with pytest.raises(DataError, match="The data set cannot be read: ") as caught:
        opened(place)
    assert caught.value.where == str(place) and caught.value.fix


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
def test_damaged_descriptions(name: str, mycat: Path, tmp_path: Path) -> None:
    place = FORMS["save_to_disk"](of_folder(mycat), tmp_path / "set", mycat)
    (place / name).write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        open_dataset(place, DataSection())


def test_errors_of_the_system_and_our_own_stay_what_they_are() -> None:
    vague = datasets.exceptions.DatasetGenerationError("vague")
    vague.__cause__ = OSError(errno.ENOSPC, "No space left on device", "file")
    with pytest.raises(PlaceError, match="The disk is full"), explained("there"):
        raise vague
    with pytest.raises(FinetuneError, match=r"^ours$"), explained("there"):
        raise FinetuneError("ours")


def test_an_id_offline_that_was_never_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    was = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(
        DataError, match=r"(?s)cannot be reached, and the data set is not in the local cache.*someone/cats"
    ):
        open_dataset(None, DataSection(dataset="someone/cats"))
    assert datasets.config.HF_HUB_OFFLINE is was
