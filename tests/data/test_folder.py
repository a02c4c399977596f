"""Folders of images: stable ids, metadata, and quarantine instead of failure."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forebear.data import Columns, DataConfig, TrainingSet, open_training_set, sample_id
from forebear.errors import DataError
from forebear.images import decode

Png = Callable[..., bytes]


def opened(root: Path, max_bytes: int = 1_000_000, **columns: object) -> TrainingSet:
    return open_training_set(DataConfig(str(root), Columns(**columns), max_bytes=max_bytes))


def ids(training_set: TrainingSet) -> dict[str, str]:
    return {sample.locator: sample.id for sample in training_set.samples}


def test_subfolders_are_classes_and_labels(folder: Path) -> None:
    opened_set = opened(folder)
    assert [s.locator for s in opened_set.samples] == ["cat/a.png", "cat/b.png", "dog/a.png", "dog/c.PNG"]
    assert [s.groups for s in opened_set.samples] == [{"class": "cat"}] * 2 + [{"class": "dog"}] * 2
    assert [s.label for s in opened_set.samples] == [0, 0, 1, 1]
    assert opened_set.quarantined == ()
    assert opened_set.samples[0].id == sample_id("cat/a.png", (folder / "cat/a.png").read_bytes())


def test_pixels_are_those_of_the_file(folder: Path, png: Png) -> None:
    pixels = opened(folder).pixels([2, 0], 6)
    for row, seed in enumerate((2, 0)):
        expected = np.asarray(decode(png(seed)), np.float32).transpose(2, 0, 1) / 127.5 - 1
        np.testing.assert_allclose(pixels[row], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"this is no picture", "not a picture"),
        ("half", "damaged or truncated"),
        ("large", "more than 200"),
    ],
)
def test_a_broken_file_is_quarantined_and_changes_no_other_sample(
    folder: Path, png: Png, content: bytes | str, reason: str
) -> None:
    limit = 200
    before = opened(folder, limit)
    whole = png(9, 40)
    broken = {"half": whole[: limit - 10], "large": whole}.get(str(content), content)
    assert isinstance(broken, bytes)
    # First in every order, in a class of its own: neither ids nor labels may shift.
    (folder / "aaa").mkdir()
    (folder / "aaa" / "0.png").write_bytes(broken)
    (folder / "cat" / "0.png").write_bytes(broken)
    after = opened(folder, limit)
    assert after.samples == before.samples
    assert after.fingerprint == before.fingerprint
    assert [entry.locator for entry in after.quarantined] == ["aaa/0.png", "cat/0.png"]
    assert all(reason in entry.reason for entry in after.quarantined)


def test_adding_removing_and_renaming_siblings_keeps_ids(folder: Path, png: Png) -> None:
    before = ids(opened(folder))
    (folder / "dog" / "c.PNG").rename(folder / "dog" / "0.png")
    (folder / "cat" / "b.png").unlink()
    (folder / "bird.png").write_bytes(png(7))
    after = ids(opened(folder))
    assert {name: after[name] for name in ("cat/a.png", "dog/a.png")} == {
        name: before[name] for name in ("cat/a.png", "dog/a.png")
    }
    assert len(set(after.values())) == 4


def test_the_same_bytes_under_two_names_are_two_samples(folder: Path, png: Png) -> None:
    (folder / "cat" / "copy.png").write_bytes(png(0))
    found = ids(opened(folder))
    assert found["cat/copy.png"] != found["cat/a.png"]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_gives_captions_labels_and_groups(folder: Path, kind: str) -> None:
    lines = [
        {"file_name": "cat/a.png", "text": "a black, sleepy cat", "artist": "Æsa", "style": "3"},
        {"file_name": "./dog/../dog/a.png", "text": "a dog\u2028running", "artist": "Bo", "style": "-1"},
    ]
    if kind == "jsonl":
        text = "\ufeff" + "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n"
    else:
        text = "\ufefffile_name,text,artist,style\n" + "".join(
            ",".join(f'"{value}"' for value in line.values()) + "\n" for line in lines
        )
    (folder / f"metadata.{kind}").write_text(text, encoding="utf-8")
    found = {s.locator: s for s in opened(folder, label_column="style", group_columns=("artist",)).samples}
    assert found["cat/a.png"].caption == "a black, sleepy cat"
    assert found["cat/a.png"].groups == {"class": "cat", "artist": "Æsa"}
    assert found["cat/a.png"].label == 3
    assert found["dog/a.png"].caption == "a dog\u2028running"
    assert found["dog/a.png"].label is None  # negative: unlabelled
    assert (found["cat/b.png"].caption, found["cat/b.png"].label) == ("", None)


def test_metadata_in_a_subfolder_names_files_beside_it(folder: Path) -> None:
    (folder / "dog" / "metadata.jsonl").write_text('{"file_name": "a.png", "caption": "rex"}\n')
    captions = {s.locator: s.caption for s in opened(folder).samples}
    assert captions["dog/a.png"] == "rex"
    assert captions["cat/a.png"] == ""


def test_a_line_without_its_picture_is_quarantined(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,text\ncat/gone.png,gone\n")
    opened_set = opened(folder)
    assert [(q.locator, q.reason) for q in opened_set.quarantined] == [
        ("cat/gone.png", "named in the metadata but not in the folder")
    ]
    assert len(opened_set) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", b'{"file_name": "cat/a.png"', r"metadata\.jsonl cannot be parsed.*mend"),
        ("metadata.jsonl", b"[1, 2]", "file_name"),
        ("metadata.jsonl", b'{"text": "no name"}', "file_name"),
        ("metadata.csv", b"file_name,text\ncat/a.png,a cat, asleep\n", "more fields"),
        ("metadata.csv", "file_name,text\ncat/a.png,Ærø\n".encode("latin-1"), "save it as UTF-8"),
    ],
)
def test_broken_metadata_is_an_error_that_names_the_file(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(folder)


@pytest.mark.parametrize(
    "columns", [{"caption_column": "words"}, {"label_column": "words"}, {"group_columns": ("words",)}]
)
def test_a_missing_column_is_named_with_those_there_are(folder: Path, columns: dict[str, object]) -> None:
    (folder / "metadata.csv").write_text("file_name,text\ncat/a.png,a cat\n")
    with pytest.raises(DataError, match="has no column 'words'; choose among: class, text"):
        opened(folder, **columns)


@pytest.mark.parametrize("value", ["tabby", "1.5", ""])
def test_a_label_that_is_no_whole_number_is_refused(folder: Path, value: str) -> None:
    (folder / "metadata.csv").write_text(f"file_name,kind\ncat/a.png,{value}\n")
    if not value:
        assert opened(folder, label_column="kind").samples[0].label is None
        return
    with pytest.raises(DataError, match="must be whole numbers"):
        opened(folder, label_column="kind")


@pytest.mark.parametrize(("value", "label"), [(2, 2), (2.0, 2), (None, None), (-1, None)])
def test_json_labels_are_whole_numbers_or_none(folder: Path, value: float | None, label: int | None) -> None:
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "cat/a.png", "kind": value}))
    assert opened(folder, label_column="kind").samples[0].label == label


@pytest.mark.parametrize("value", [1.5, [1], float("nan"), float("inf")])
def test_json_labels_of_another_kind_are_refused(folder: Path, value: object) -> None:
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "cat/a.png", "kind": value}))
    with pytest.raises(DataError, match="must be whole numbers"):
        opened(folder, label_column="kind")


def test_a_name_that_is_not_utf8_is_quarantined(folder: Path, png: Png) -> None:
    strange = Path(str(folder / "cat" / "z") + "\udcff.png")
    try:
        strange.write_bytes(png(5))
    except OSError:
        pytest.skip("this file system allows only UTF-8 names")
    opened_set = opened(folder)
    assert len(opened_set) == 4
    assert opened_set.quarantined[0].locator == "cat/z\\xff.png"
    assert "UTF-8" in opened_set.quarantined[0].reason


def test_a_picture_that_broke_since_the_scan_is_an_error_with_its_name(folder: Path) -> None:
    opened_set = opened(folder)
    (folder / "cat" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"cat/a\.png was readable and is not any more"):
        opened_set.picture(0)
    (folder / "cat" / "a.png").unlink()
    with pytest.raises(DataError, match="restore it or scan again"):
        opened_set.pixels([0], 6)


def test_no_usable_image_is_an_error_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no usable image \(0 quarantined\); check the path"):
        opened(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 quarantined, for example a\.png: empty file"):
        opened(tmp_path)


def test_a_missing_path_says_what_can_be_given(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; give `openmoji`"):
        opened(tmp_path / "none")


def test_pictures_of_many_shapes_become_one(tmp_path: Path) -> None:
    Image.new("RGB", (30, 10), "red").save(tmp_path / "wide.jpg")
    Image.new("L", (10, 30), 255).save(tmp_path / "tall.bmp")
    Image.new("RGBA", (1, 1), (0, 0, 0, 0)).save(tmp_path / "dot.webp")
    assert opened(tmp_path).pixels([0, 1, 2], 8).shape == (3, 3, 8, 8)
    assert opened(tmp_path).pixels([0], 8, channels=1).shape == (1, 1, 8, 8)
