"""Directories in the layout of Hugging Face's `save_to_disk`."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from forebear.data import Columns, DataConfig, TrainingSet, open_training_set, sample_id
from forebear.errors import DataError
from forebear.images import decode

Png = Callable[..., bytes]
SaveToDisk = Callable[..., Path]


def opened(source: Path | str, **columns: object) -> TrainingSet:
    return open_training_set(DataConfig(str(source), Columns(**columns), max_bytes=1_000))


def test_rows_of_all_files_in_the_order_of_the_state(tmp_path: Path, png: Png, save_to_disk: SaveToDisk) -> None:
    save_to_disk(tmp_path, [[png(s) for s in range(5)], [png(s) for s in range(5, 8)]])
    opened_set = opened(tmp_path, label_column="style", group_columns=("style",))
    assert [s.caption for s in opened_set.samples] == [f"00000 {n}" for n in range(5)] + [
        f"00001 {n}" for n in range(3)
    ]
    assert [s.label for s in opened_set.samples] == [0, 1, 0, 1, 0, 0, 1, 0]
    assert opened_set.samples[1].groups == {"style": "fauvism"}
    assert opened_set.samples[6].id == sample_id("1.png", png(6))
    for row in (7, 0, 4, 2, 5):
        assert opened_set.picture(row).tobytes() == decode(png(row)).tobytes()


def test_arrow_files_by_pattern_and_in_the_file_format(tmp_path: Path, png: Png, save_to_disk: SaveToDisk) -> None:
    save_to_disk(tmp_path, [[png(0), png(1), png(2)]])
    stream = tmp_path / "data-00000-of-00001.arrow"
    streamed = opened(tmp_path)
    assert opened(tmp_path / "*.arrow").fingerprint == streamed.fingerprint
    table = pa.ipc.open_stream(stream.read_bytes()).read_all()
    with pa.OSFile(str(tmp_path / "file.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, 2)
    filed = opened(tmp_path / "file.arrow")
    assert filed.fingerprint == streamed.fingerprint
    assert filed.picture(2).tobytes() == decode(png(2)).tobytes()


def test_a_broken_picture_is_quarantined(tmp_path: Path, png: Png, save_to_disk: SaveToDisk) -> None:
    save_to_disk(tmp_path, [[png(0), b"no picture", None, png(1)]])
    opened_set = opened(tmp_path)
    assert [s.caption for s in opened_set.samples] == ["00000 0", "00000 3"]
    assert [(q.locator.split(", ")[1], q.reason) for q in opened_set.quarantined] == [
        ("row 1", "not a picture in a known format"),
        ("row 2", "empty file"),
    ]


@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path: Path, png: Png, save_to_disk: SaveToDisk, part: float) -> None:
    path = save_to_disk(tmp_path, [[png(seed) for seed in range(8)]]) / "data-00000-of-00001.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow is truncated or no Arrow file .*replace"):
        opened(tmp_path)


def test_a_file_of_something_else_is_named(tmp_path: Path, png: Png, save_to_disk: SaveToDisk) -> None:
    path = save_to_disk(tmp_path, [[png(0)]]) / "data-00000-of-00001.arrow"
    path.write_bytes(b"\xff" * 4_000)
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow is truncated or no Arrow file"):
        opened(tmp_path)


def test_directories_that_are_not_one_plain_split_say_what_to_do(
    tmp_path: Path, png: Png, save_to_disk: SaveToDisk
) -> None:
    save_to_disk(tmp_path / "all" / "train", [[png(0)]])
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match=r"several splits; choose one: .*all/train, .*all/test"):
        opened(tmp_path / "all")
    save_to_disk(tmp_path / "indexed", [[png(0)]], _indices_files=[{"filename": "indices.arrow"}])
    with pytest.raises(DataError, match="flatten_indices"):
        opened(tmp_path / "indexed")
    save_to_disk(tmp_path / "missing", [[png(0)], [png(1)]])
    (tmp_path / "missing" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"lacks data-00001-of-00002\.arrow; copy the whole directory"):
        opened(tmp_path / "missing")
    (tmp_path / "missing" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state\.json cannot be parsed"):
        opened(tmp_path / "missing")


def test_a_missing_column_is_named(tmp_path: Path, png: Png, save_to_disk: SaveToDisk) -> None:
    save_to_disk(tmp_path, [[png(0)]])
    with pytest.raises(DataError, match="has no column 'words'; choose among: style, text"):
        opened(tmp_path, caption_column="words")
    with pytest.raises(DataError, match="no image column 'picture'; choose among: image, style, text"):
        open_training_set(DataConfig(str(tmp_path), image_column="picture"))


def test_a_row_that_broke_since_the_scan_is_an_error_with_its_place(
    tmp_path: Path, png: Png, save_to_disk: SaveToDisk
) -> None:
    save_to_disk(tmp_path, [[png(0), png(1), png(2)]])
    opened_set = opened(tmp_path)
    (tmp_path / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match=r"byte [\d,]+, row 0 was readable and is not any more .*scan again"):
        opened_set.picture(2)
