"""A scan that was killed goes on where it was, and finds what an undisturbed one finds."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forebear.data import Columns, DataConfig, TrainingSet, catalogue_cache, catalogue_scan, folder, open_training_set
from forebear.data.catalogue_scan import Journal
from forebear.data.sample import Entry
from forebear.data.scanning import Scan
from forebear.errors import DataError

FILES = 5


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the pictures had been lying there for long; and parts of a folder are small."""
    monkeypatch.setattr(catalogue_cache, "SETTLED_SECONDS", -60.0)
    monkeypatch.setattr(folder, "PART_PICTURES", 2)


@pytest.fixture(params=["parquet", "tar", "pictures"])
def source(request: pytest.FixtureRequest, tmp_path: Path, png, write_tar) -> Path:
    """Five parts of two samples; the first picture of each file is the same one, and one picture is broken."""
    place = tmp_path / "source"
    place.mkdir()
    for number in range(FILES):
        images = [png(0), b"broken" if number == 1 else png(number + 1)]
        name = place / f"part-{number}"
        if request.param == "parquet":
            table = pa.table({"image": [{"bytes": image, "path": "same.png"} for image in images]})
            pq.write_table(table, f"{name}.parquet")
        elif request.param == "tar":
            members = [(f"same-{row}.png", image) for row, image in enumerate(images)]
            write_tar(Path(f"{name}.tar"), [*members, (f"same-1.{'txt' if number else 'artist.txt'}", b"words")])
        else:
            for row, image in enumerate(images):
                Path(f"{name}-{row}.png").write_bytes(image)
    return place


def found(training_set: TrainingSet) -> tuple[object, ...]:
    return list(training_set.samples), list(training_set.quarantined), training_set.fingerprint


class Killed(BaseException):
    """Nothing catches it."""


@pytest.fixture
def parts_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the parts that were begun."""
    read: list[int] = []
    keep = Journal.keep

    def noted(journal: Journal, entries: Iterator[Entry], scan: Scan, stamp: str) -> None:
        read.append(scan.done)
        keep(journal, entries, scan, stamp)

    monkeypatch.setattr(Journal, "keep", noted)
    return read


def kill_in(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """The scan ends after the first entry of a part."""
    entries = catalogue_scan._Report.entries

    def dying(report: catalogue_scan._Report, its: Iterator[Entry]) -> Iterator[Entry]:
        for entry in entries(report, its):
            yield entry
            if report._scan.done == part:
                raise Killed

    monkeypatch.setattr(catalogue_scan._Report, "entries", dying)


@pytest.mark.parametrize("part", [0, 1, 4])
def test_a_killed_scan_goes_on_with_the_part_that_it_was_in(
    source: Path, part: int, parts_read: list[int], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(str(source))
    monkeypatch.setenv("FOREBEAR_CACHE", "")
    expected = found(open_training_set(config))
    monkeypatch.setenv("FOREBEAR_CACHE", str(cache))
    with monkeypatch.context() as killing:
        kill_in(killing, part)
        with pytest.raises(Killed):
            open_training_set(config)
    assert parts_read == list(range(part + 1))
    parts_read.clear()
    assert found(open_training_set(config)) == expected
    assert parts_read[0] == part
    assert [path.suffix for path in (cache / "catalogues").iterdir()] == [""]  # nothing but the catalogue is left
    parts_read.clear()
    assert found(open_training_set(config)) == expected
    assert parts_read == []


def test_what_changed_behind_the_kill_is_read_and_what_changed_before_it_starts_anew(
    source: Path, parts_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, files = DataConfig(str(source)), sorted(source.iterdir())
    by_file = files[0].suffix != ".png"

    def killed_in_3() -> None:
        with monkeypatch.context() as killing:
            kill_in(killing, 3)
            with pytest.raises(Killed):
                open_training_set(config)
        parts_read.clear()

    killed_in_3()
    files[-1].unlink()
    first = open_training_set(config)
    # Which folders there are decides the labels of all pictures, so a folder of pictures is begun anew.
    assert parts_read[0] == (3 if by_file else 0)
    os.utime(files[0], ns=(1, 1))
    killed_in_3()
    os.utime(files[1], ns=(1, 1))
    again = open_training_set(config)
    assert parts_read[0] == 0
    assert found(again) == found(first)


def test_a_part_that_fails_keeps_those_before_it(
    tmp_path: Path, png, write_tar: Callable[..., Path], parts_read: list[int], cache: Path
) -> None:
    tars = [write_tar(tmp_path / f"{n}.tar", [(f"{n}.png", png(n))]) for n in range(3)]
    whole = tars[2].read_bytes()
    tars[2].write_bytes(whole[:600])
    config = DataConfig(str(tmp_path / "*.tar"))
    with pytest.raises(DataError, match=r"2\.tar is truncated"):
        open_training_set(config)
    tars[2].write_bytes(whole)
    parts_read.clear()
    assert len(open_training_set(config)) == 3
    assert parts_read == [2]


@pytest.mark.parametrize("source", ["tar"], indirect=True)
def test_a_column_that_no_tar_has_is_missed_after_a_kill_as_well(
    source: Path, parts_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("artist.txt", "painter.txt"):
        config = DataConfig(str(source), columns=Columns(caption_column=name))
        with monkeypatch.context() as killing:
            kill_in(killing, 2)
            with pytest.raises(Killed):
                open_training_set(config)
        if name == "artist.txt":  # of the first tar alone
            assert len(open_training_set(config)) == 2 * FILES - 1
            assert parts_read[-1] == FILES - 1
        else:
            with pytest.raises(DataError, match=r"no column 'painter.txt'"):
                open_training_set(config)


def test_a_damaged_journal_is_begun_anew_and_a_held_one_left_alone(
    source: Path, parts_read: list[int], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(str(source))
    with monkeypatch.context() as killing:
        kill_in(killing, 3)
        with pytest.raises(Killed):
            open_training_set(config)
    (journal,) = (cache / "catalogues").glob("*.scan/scan.sqlite")
    holder = sqlite3.connect(journal, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    parts_read.clear()
    expected = found(open_training_set(config))
    assert parts_read == []  # it was scanned beside the other process, and its own catalogue kept
    assert journal.exists()
    holder.close()
    next(path for path in (cache / "catalogues").iterdir() if path.suffix == "").rename(cache / "away")
    journal.write_bytes(b"no database at all, but long enough to be taken for a header of one ..." * 20)
    assert found(open_training_set(config)) == expected
    assert parts_read[0] == 0
    assert not journal.exists()


KILLED = """
import os, signal, sys
from forebear.data import DataConfig, catalogue_cache, catalogue_scan, folder, open_training_set
catalogue_cache.SETTLED_SECONDS, folder.PART_PICTURES = -60.0, 2
entries = catalogue_scan._Report.entries

def dying(report, its):
    for entry in entries(report, its):
        yield entry
        if report._scan.done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

catalogue_scan._Report.entries = dying
open_training_set(DataConfig(sys.argv[1]))
"""


def test_a_process_that_is_killed_leaves_its_parts_to_the_next(source: Path, parts_read: list[int]) -> None:
    finished = subprocess.run([sys.executable, "-c", KILLED, str(source)], check=False)
    assert finished.returncode == -signal.SIGKILL
    assert len(open_training_set(DataConfig(str(source)))) == 2 * FILES - 1
    assert parts_read[0] == 3


def test_a_long_scan_shows_how_far_it_is(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_training_set(DataConfig(str(source)))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(catalogue_scan, "QUIET", 0.0)
    monkeypatch.setattr(catalogue_scan, "LOOK", 1)
    open_training_set(DataConfig(str(source), max_bytes=10_000))
    files = len(list(source.iterdir()))
    assert f"reading images {files}/{files} files (100%)" in capsys.readouterr().err
