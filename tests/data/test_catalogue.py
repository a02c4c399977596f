"""Samples in columns behave as the tuple of objects that they stand for, and are kept only while nothing changed."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebear.data import DataConfig, Quarantined, Sample, TrainingSet, catalogue, catalogue_cache, open_training_set
from forebear.data.catalogue import Samples, in_memory, read_catalogue, write_catalogue
from forebear.data.digits import DigitsSource
from forebear.data.folder import FolderSource
from forebear.data.occurrences import Occurrences
from forebear.data.sample import Entry
from forebear.data.scanning import Scan
from forebear.errors import DataError
from forebear.files import fingerprint, fingerprint_of_items

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SAMPLES = st.lists(
    st.builds(
        Sample,
        id=TEXT,
        locator=TEXT,
        caption=TEXT,
        label=st.none() | st.integers(-(2**63), 2**63 - 1),
        groups=st.dictionaries(st.sampled_from(["artist", "class", "", "é"]), TEXT, max_size=3),
    ),
    unique_by=lambda sample: sample.id,
    max_size=9,
)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "BATCH_ROWS", 5)
    monkeypatch.setattr(catalogue, "READ_ROWS", 2)


def group_names(samples: list[Sample]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for sample in samples for name in sample.groups))


@settings(max_examples=20)
@given(SAMPLES, st.data())
def test_columns_stand_for_the_tuple_of_samples(expected: list[Sample], data: st.DataObject) -> None:
    found = TrainingSet(DigitsSource(), expected)
    for _ in range(3):  # the whole, a subset, a subset of the subset
        assert found.samples == tuple(expected)
        assert tuple(expected) == found.samples
        assert list(found.samples) == expected
        assert [found.samples[row] for row in range(-len(expected), len(expected))] == expected * 2
        assert found.samples[1:-1] == tuple(expected[1:-1])
        assert found.samples[::-2] == tuple(expected[::-2])
        assert found.rows == {sample.id: row for row, sample in enumerate(expected)}
        assert found.group_names == group_names(expected)
        assert found.fingerprint == fingerprint([[s.id, s.caption, s.label] for s in expected])
        for name in ("artist", "é", "none"):
            assert found.samples.group(name).to_pylist() == [s.groups.get(name) for s in expected]
        assert found.samples.column("caption").to_pylist() == [s.caption for s in expected]
        count = data.draw(st.integers(0, len(expected)))
        first = set(sorted(sample.id for sample in expected)[:count])
        assert list(found.samples.first_by_id(count)) == [s for s in expected if s.id in first]
        keep = data.draw(st.sets(st.sampled_from([s.id for s in expected]))) if expected else set()
        found = found.where(lambda sample, keep=keep: sample.id in keep)
        expected = [sample for sample in expected if sample.id in keep]


def test_rows_outside_and_other_things_are_refused() -> None:
    samples = in_memory([Sample(str(n), "") for n in range(3)]).samples
    for row in (3, -4):
        with pytest.raises(IndexError):
            samples[row]
    assert samples != [samples[0]]
    assert samples != 3
    assert 3 not in TrainingSet(DigitsSource(), samples).rows


@settings(max_examples=30)
@given(st.lists(st.tuples(TEXT, st.none() | st.integers())))
def test_a_list_hashed_item_by_item_has_the_fingerprint_of_the_list(items: list[tuple[str, int | None]]) -> None:
    assert fingerprint_of_items(iter(items)) == fingerprint(items)


def entries(count: int) -> Iterator[Entry]:
    for n in range(count):
        yield Sample(f"{(n * 7919) % 1009:05d}", f"at {n}", f"caption {n}", n % 3 or None, {"class": str(n % 2)})
        if n % 4 == 0:
            yield Quarantined(f"bad {n}", "broken")


@pytest.mark.parametrize("count", [0, 1, 5, 23])
def test_what_is_written_is_read_back(tmp_path: Path, count: int) -> None:
    write_catalogue(tmp_path, entries(count))
    found, expected = read_catalogue(tmp_path), in_memory(entries(count))
    assert found.samples == expected.samples
    assert found.quarantined == expected.quarantined
    assert found.samples.fingerprint == expected.samples.fingerprint
    assert [found.samples.row(sample.id) for sample in expected.samples] == list(range(count))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "by_id.npy",
        "catalogue.json",
        "quarantined.arrow",
        "samples.arrow",
    ]


def test_ids_that_occur_twice_are_found_across_batches(tmp_path: Path) -> None:
    samples = [Sample(f"{n % 17:02d}", str(n)) for n in range(19)]
    with pytest.raises(DataError, match=r"2 sample ids occur twice \(first: 00\)"):
        write_catalogue(tmp_path, samples)
    with pytest.raises(DataError, match=r"1 sample ids occur twice \(first: 00\)"):
        in_memory(samples[:18])


@pytest.mark.parametrize(
    ("change", "reason"), [({"caption": "\ud800"}, "surrogates"), ({"label": 2**63}, "too big|large")]
)
def test_values_that_no_column_holds_name_their_place(change: dict[str, object], reason: str) -> None:
    with pytest.raises(DataError, match=f"between here and here cannot be kept.*({reason}).*must be Unicode"):
        in_memory([replace(Sample("a", "here"), **change)])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["samples.arrow", "quarantined.arrow", "by_id.npy", "catalogue.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "of another"])
def test_a_damaged_catalogue_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    write_catalogue(tmp_path / "one", entries(23))
    path = tmp_path / "one" / name
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif name in {"samples.arrow", "by_id.npy"}:
        write_catalogue(tmp_path / "other", entries(5))
        shutil.copy(tmp_path / "other" / name, path)
    else:
        path.write_text("[]")
    with pytest.raises(DataError, match="remove the folder"):
        read_catalogue(tmp_path / "one")


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the pictures had been lying there for long."""
    monkeypatch.setattr(catalogue_cache, "SETTLED_SECONDS", -60.0)


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for every scan of a folder."""
    seen: list[None] = []
    parts = FolderSource.parts

    def counted(source: FolderSource, scan: Scan) -> Iterator[Iterator[Entry]]:
        seen.append(None)
        return parts(source, scan)

    monkeypatch.setattr(FolderSource, "parts", counted)
    return seen


@pytest.mark.usefixtures("settled")
def test_a_scan_is_kept_until_a_file_changes(folder: Path, png, scans: list[None], cache: Path) -> None:
    config = DataConfig(str(folder))
    (folder / "cat" / "bad.png").write_bytes(b"bad")
    first = open_training_set(config)
    again = open_training_set(config)
    assert len(scans) == 1
    assert (again.samples, again.quarantined) == (first.samples, first.quarantined)
    assert again.fingerprint == first.fingerprint
    assert again.pixels([3], 6).tobytes() == first.pixels([3], 6).tobytes()
    assert len(open_training_set(replace(config, limit=2, where={"class": ("cat",)}))) == 2
    assert len(scans) == 1  # filters are applied to what was kept

    def changed() -> TrainingSet:
        before = len(scans)
        found = open_training_set(config)
        assert len(scans) == before + 1
        assert len(list((cache / "catalogues").iterdir())) == 1  # the older one went
        return found

    path = folder / "dog" / "a.png"
    times = path.stat()
    path.write_bytes(png(8)[: times.st_size].ljust(times.st_size, b"\0"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size, and the time set back
    assert changed().samples[2].id != first.samples[2].id
    (folder / "dog" / "new.png").write_bytes(png(9))
    assert len(changed()) == 5
    (folder / "metadata.csv").write_text("file_name,text\ncat/a.png,a cat\n")
    assert changed().samples[0].caption == "a cat"
    assert first.samples[0].caption == ""  # an open one stays as it was
    open_training_set(replace(config, max_bytes=10_000))
    assert len(list((cache / "catalogues").iterdir())) == 2  # another setting is another source


def test_files_that_just_changed_are_not_trusted(folder: Path, scans: list[None], cache: Path) -> None:
    for expected in (1, 2):
        assert len(open_training_set(DataConfig(str(folder)))) == 4
        assert len(scans) == expected
    assert not (cache / "catalogues").exists()


@pytest.mark.usefixtures("settled")
def test_a_damaged_catalogue_is_made_again(folder: Path, scans: list[None], cache: Path) -> None:
    first = open_training_set(DataConfig(str(folder)))
    (kept,) = (cache / "catalogues").iterdir()
    (kept / "samples.arrow").write_bytes(b"")
    for _ in range(2):
        assert open_training_set(DataConfig(str(folder))).fingerprint == first.fingerprint
        assert len(scans) == 2


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("where", ["", "a file"])
def test_without_a_cache_folder_every_process_scans(
    folder: Path, scans: list[None], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where:
        (tmp_path / where).touch()
    monkeypatch.setenv("FOREBEAR_CACHE", str(tmp_path / where) if where else "")
    for expected in (1, 2):
        assert len(open_training_set(DataConfig(str(folder)))) == 4
        assert len(scans) == expected


@pytest.mark.usefixtures("settled")
def test_what_could_not_be_read_for_now_is_not_kept(
    folder: Path, scans: list[None], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    content = FolderSource._content
    with monkeypatch.context() as failing:
        # Permissions do not stop root, so the failing read is the operating system's own answer to a folder.
        failing.setattr(FolderSource, "_content", lambda self, name: content(self, "cat" if "cat/a" in name else name))
        assert open_training_set(DataConfig(str(folder))).quarantined[0].reason == "cannot be read: Is a directory"
    assert list((cache / "catalogues").iterdir()) == []
    assert len(open_training_set(DataConfig(str(folder)))) == 4
    assert len(scans) == 2


@pytest.mark.usefixtures("settled")
def test_what_a_killed_scan_left_goes_in_time(folder: Path, cache: Path) -> None:
    open_training_set(DataConfig(str(folder)))
    (kept,) = (cache / "catalogues").iterdir()
    old, young = kept.with_name(f"{kept.name}.old.part"), kept.with_name(f"{kept.name}.young.part")
    for part in (old, young):
        part.mkdir()
    os.utime(old, (0, 0))
    (folder / "cat" / "a.png").unlink()
    open_training_set(DataConfig(str(folder)))
    assert (old.exists(), young.exists(), kept.exists()) == (False, True, False)


@pytest.mark.usefixtures("settled")
def test_a_scan_that_fails_leaves_nothing(folder: Path, cache: Path) -> None:
    (folder / "metadata.jsonl").write_text("{")
    with pytest.raises(DataError, match="cannot be parsed"):
        open_training_set(DataConfig(str(folder)))
    assert list((cache / "catalogues").iterdir()) == []


def test_rows_become_objects_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Sample] = []
    make = catalogue._sample

    def counted(line: dict[str, object]) -> Sample:
        made.append(make(line))
        return made[-1]

    monkeypatch.setattr(catalogue, "_sample", counted)
    write_catalogue(tmp_path, entries(300))
    found = TrainingSet(DigitsSource(), read_catalogue(tmp_path).samples)
    assert found.group_names == ("class",)
    assert len(found.samples.first_by_id(7)) == 7
    assert found.row("00000") == 0
    assert made == []
    assert found.samples[200].locator == "at 200"
    assert len(made) == 1
    assert isinstance(found.samples, Samples)
    assert json.loads((tmp_path / "catalogue.json").read_text())["fingerprint"] == found.fingerprint


def test_occurrences_count_each_key() -> None:
    seen = Occurrences()
    keys = np.random.default_rng(0).integers(0, 50, 500).astype(str).tolist()
    counted: dict[str, int] = {}
    for key in keys:
        counted[key] = counted.get(key, 0) + 1
        assert seen.add(key) == counted[key]
    seen.close()
