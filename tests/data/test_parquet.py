"""Parquet in the Hugging Face layout."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forebear.data import Columns, DataConfig, TrainingSet, open_training_set, sample_id
from forebear.errors import DataError
from forebear.images import decode

Png = Callable[..., bytes]

FEATURES = {
    "image": {"_type": "Image"},
    "style": {"names": ["cubism", "fauvism"], "_type": "ClassLabel"},
    "text": {"dtype": "string", "_type": "Value"},
}


def write(path: Path, images: Sequence[bytes | None], rows_per_group: int = 2, **columns: list[Any]) -> Path:
    cells = [{"bytes": content, "path": f"{number}.png"} for number, content in enumerate(images)]
    table = pa.table({"image": cells, **columns})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


def opened(source: Path | str, **columns: object) -> TrainingSet:
    return open_training_set(DataConfig(str(source), Columns(**columns), max_bytes=1_000))


def test_struct_captions_class_names_and_unlabelled_rows(tmp_path: Path, png: Png) -> None:
    path = write(
        tmp_path / "train.parquet",
        [png(0), png(1), png(2), png(3)],
        style=[1, 0, -1, None],
        text=["one", "two", "three", None],
    )
    samples = opened(path, label_column="style", group_columns=("style",)).samples
    assert [s.caption for s in samples] == ["one", "two", "three", ""]
    assert [s.label for s in samples] == [1, 0, None, None]
    assert [dict(s.groups) for s in samples] == [{"style": "fauvism"}, {"style": "cubism"}, {}, {}]
    assert samples[1].id == sample_id("1.png", png(1))


def test_class_numbers_stay_numbers_without_names(tmp_path: Path, png: Png) -> None:
    table = pa.table({"image": [{"bytes": png(0), "path": None}], "style": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert opened(tmp_path / "a.parquet", group_columns=("style",)).samples[0].groups == {"style": "1"}


def test_pictures_come_from_their_own_row_group_and_file(tmp_path: Path, png: Png) -> None:
    write(tmp_path / "data" / "train-00000.parquet", [png(seed) for seed in range(5)], text=["a"] * 5)
    write(tmp_path / "data" / "train-00001.parquet", [png(seed) for seed in range(5, 8)], text=["b"] * 3)
    for source in (tmp_path, tmp_path / "data", f"{tmp_path}/data/train-*.parquet"):
        opened_set = opened(source)
        assert [s.caption for s in opened_set.samples] == ["a"] * 5 + ["b"] * 3
        for row in (7, 0, 4, 2, 5):
            assert opened_set.picture(row).tobytes() == decode(png(row)).tobytes()


def test_plain_binary_columns_hold_images_too(tmp_path: Path, png: Png) -> None:
    pq.write_table(pa.table({"jpg": [png(0), None, png(1)], "caption": ["a", "b", "c"]}), tmp_path / "a.parquet")
    opened_set = open_training_set(DataConfig(str(tmp_path), image_column="jpg"))
    assert [s.caption for s in opened_set.samples] == ["a", "c"]
    assert [(q.locator, q.reason) for q in opened_set.quarantined] == [("a.parquet, row group 0, row 1", "empty file")]


def test_equal_rows_get_different_ids_that_do_not_depend_on_other_rows(tmp_path: Path, png: Png) -> None:
    def same(images: Sequence[bytes]) -> Path:
        cells = [{"bytes": content, "path": None} for content in images]
        pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet", row_group_size=2)
        return tmp_path / "a.parquet"

    found = [s.id for s in opened(same([png(0), png(1), png(0), png(0)])).samples]
    assert len(set(found)) == 4
    moved = [s.id for s in opened(same([png(5), png(0), png(0), png(1), png(0)])).samples]
    assert [moved[1], moved[3], moved[2], moved[4]] == found


@pytest.mark.parametrize("broken", [b"", b"no picture", None, "half", "large"])
def test_a_broken_cell_is_quarantined_and_changes_no_other_id(
    tmp_path: Path, png: Png, broken: bytes | str | None
) -> None:
    content = {"half": png(9, 12)[:150], "large": png(9, 60)}.get(str(broken), broken)
    images = [png(0), png(1), png(2)]

    def opened_with(extra: list[Any]) -> TrainingSet:
        cells = extra + [{"bytes": image, "path": f"{number}.png"} for number, image in enumerate(images)]
        pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet", row_group_size=2)
        return opened(tmp_path)

    before, after = opened_with([]), opened_with([{"bytes": content, "path": "broken.png"}])
    assert [s.id for s in after.samples] == [s.id for s in before.samples]
    assert after.fingerprint == before.fingerprint
    assert [q.locator for q in after.quarantined] == ["a.parquet, row group 0, row 0"]
    assert after.picture(2).tobytes() == decode(png(2)).tobytes()


def test_a_row_that_broke_since_the_scan_is_an_error_with_its_place(tmp_path: Path, png: Png) -> None:
    path = write(tmp_path / "a.parquet", [png(0), png(1), png(2)])
    opened_set = opened(path)
    opened_set.picture(2)
    write(path, [png(0), png(1), b"broken"])
    with pytest.raises(DataError, match=r"a\.parquet, row group 1, row 0 was readable and is not any more"):
        opened_set.picture(2)
    path.unlink()
    with pytest.raises(DataError, match="restore the file or scan again"):
        opened_set.picture(0)


def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, png: Png) -> None:
    path = write(tmp_path / "a.parquet", [png(0)] * 20)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.parquet is not a readable Parquet file"):
        opened(tmp_path)


def test_a_damaged_row_group_is_an_error_that_names_it(tmp_path: Path, png: Png) -> None:
    path = write(tmp_path / "a.parquet", [png(seed) for seed in range(8)], text=["word"] * 8)
    whole = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    whole[start : start + 200] = b"\xff" * 200
    path.write_bytes(bytes(whole))
    with pytest.raises(DataError, match=r"a\.parquet, row group 1 is damaged"):
        opened(tmp_path)


@pytest.mark.parametrize("column", ["words", "boxes"])
def test_a_missing_or_nested_column_is_named(tmp_path: Path, png: Png, column: str) -> None:
    path = write(tmp_path / "a.parquet", [png(0)], text=["a"], style=[0], boxes=[[1, 2]])
    for chosen in ({"caption_column": column}, {"group_columns": (column,)}):
        with pytest.raises(DataError, match=f"has no column '{column}'; choose among: style, text"):
            opened(path, **chosen)


def test_a_missing_image_column_is_named(tmp_path: Path, png: Png) -> None:
    path = write(tmp_path / "a.parquet", [png(0)], text=["a"])
    with pytest.raises(DataError, match="no image column 'picture'; choose among: image, text"):
        open_training_set(DataConfig(str(path), image_column="picture"))


def test_an_empty_file_is_no_usable_image(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="holds no usable image"):
        opened(tmp_path)


def test_hundreds_of_files_are_one_training_set(tmp_path: Path, png: Png) -> None:
    content = [png(seed) for seed in range(7)]
    for number in range(200):
        cells = [{"bytes": content[(number + row) % 7], "path": f"{number}-{row}.png"} for row in range(3)]
        pq.write_table(pa.table({"image": cells}), tmp_path / f"train-{number:05d}.parquet", row_group_size=1)
    opened_set = opened(tmp_path)
    assert len(opened_set) == 600
    for row in (599, 0, 300, 1, 598):
        assert opened_set.picture(row).tobytes() == decode(content[(row // 3 + row % 3) % 7]).tobytes()
        assert opened_set.samples[row].id == sample_id(f"{row // 3}-{row % 3}.png", content[(row // 3 + row % 3) % 7])
