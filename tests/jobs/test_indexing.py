"""Indexes in parts, built by this process or by Ray actors: the same bytes, whatever dies or cannot be read."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from forebear.cli.main import main
from forebear.errors import ConfigError, JobError, SearchIndexError
from forebear.index import IndexConfig
from forebear.jobs import EmbedConfig, build_indexes, embed
from forebear.jobs.events import INDEXING, events_path, read_events
from forebear.run import Run
from forebear.store import Store, remove_samples

OWNERS = ["tracin", "cosine", "das", "pixel", "random"]
"""Plain rows, rows of norm 1, residuals of all samples, pictures, and no model."""
ROWS = 25
"""Of a part: 57 samples make three, which begin within shards of the store."""


@pytest.fixture(scope="module")
def run(class_run: Run, small: EmbedConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """60 samples, of which three are removed; not to be written to."""
    run = Run(tmp_path_factory.mktemp("indexing") / "run")
    shutil.copytree(class_run.folder, run.folder)
    store = embed(run, replace(small, measurements=("loss", "output")))
    remove_samples(run.store_folder, [store.ids()[row] for row in (0, 30, 59)], "asked for")
    return run


def index_files(run: Run) -> dict[str, bytes]:
    files = (path for path in (run.folder / "index").rglob("*") if path.is_file())
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def in_process(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of indexes that one process has built without interruption."""
    other = Run(tmp_path_factory.mktemp("in-process") / "run")
    shutil.copytree(run.folder, other.folder)
    build_indexes(other, OWNERS, IndexConfig(), ROWS)
    return index_files(other)


def of_estimators(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if path.split("/")[1] in names}


def inodes(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_ino for path in folder.glob("part-*/vectors.f16")}


def deadly_worker(deaths: int, tries: Path) -> type:
    """An IndexWorker whose process dies `deaths` times within the second part of tracin.

    The class is local, so that Ray sends it by value: its actors cannot import this test.
    """
    from forebear.jobs.indexing import IndexWorker

    class Deadly(IndexWorker):
        def vectors(self, part) -> Iterator[tuple[int, np.ndarray]]:
            import os

            blocks = iter(super().vectors(part))
            yield next(blocks)
            if part.metadata.estimator == "tracin" and part.first == 25 and len(list(tries.iterdir())) < deaths:
                (tries / str(os.getpid())).touch()
                os._exit(1)
            yield from blocks

    return Deadly


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], None]:
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    (tmp_path / "tries").mkdir()
    return lambda deaths: monkeypatch.setattr(
        "forebear.jobs.indexing.IndexWorker", deadly_worker(deaths, tmp_path / "tries")
    )


def test_parts_hold_the_vectors_of_one_index(run: Run, in_process: dict[str, bytes], copy_run) -> None:
    one, many = copy_run(run), copy_run(run)
    wholes, parts = build_indexes(one, OWNERS, IndexConfig()), build_indexes(many, OWNERS, IndexConfig(), ROWS)
    for whole, part in zip(wholes, parts, strict=True):
        assert (whole.parts, part.parts, len(part)) == (1, 3, 57)
        np.testing.assert_array_equal(part.vectors(range(57)), whole.vectors(range(57)))
    assert index_files(many) == in_process


@pytest.mark.usefixtures("ray_session")
def test_two_workers_give_the_bytes_of_one_process(run: Run, copy_run) -> None:
    pytest.importorskip("faiss", reason="install forebear[cpu]")
    names, config = ["tracin", "das", "random"], IndexConfig(kind="rabitq", short_codes_from=20, short_recall=0)
    here, there = copy_run(run), copy_run(run)
    build_indexes(here, names, config, ROWS)
    build_indexes(there, names, config, ROWS, 2)
    assert index_files(there) == index_files(here)
    assert {"shortlist.faiss", "towards.faiss"} <= {Path(name).name for name in index_files(here)}


@pytest.mark.usefixtures("ray_session")
def test_an_actor_that_dies_is_replaced_and_the_bytes_are_the_same(
    run: Run, in_process: dict[str, bytes], copy_run, deadly
) -> None:
    other = copy_run(run)
    deadly(1)
    asked = ["index", "--run", str(other.folder), "--estimator", "tracin", "--estimator", "das", "--no-calibration"]
    told = CliRunner().invoke(main, [*asked, "--shard-rows", str(ROWS), "--workers", "1"])
    assert told.exit_code == 0, told.output
    assert "57 images, exact search in 3 parts" in told.output
    assert "indexing 114/114 images (100%)" in told.output
    assert "1 retried" in told.output
    assert index_files(other) == of_estimators(in_process, "tracin", "das")
    events = list(read_events(events_path(other, INDEXING)))
    retried = [event for event in events if event["event"] == "retried"]
    assert [(event["estimator"], event["part"]) for event in retried] == [("tracin", "part-00001")]
    assert (events[-1]["event"], events[-1]["done"], events[-1]["error"]) == ("end", 114, None)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_part_that_kills_its_workers_is_named_and_the_others_are_kept(
    run: Run, in_process: dict[str, bytes], copy_run, deadly
) -> None:
    other = copy_run(run)
    deadly(3)
    with pytest.raises(JobError, match=r"not built: part-00001 of tracin \(rows 25 to 49; .*all other parts are built"):
        build_indexes(other, OWNERS, IndexConfig(), ROWS, 2)
    assert not other.index_folder("tracin").exists()
    assert index_files(other).items() >= of_estimators(in_process, *OWNERS[1:]).items()
    kept = inodes(other.folder / "index" / "tracin.building")
    assert sorted(kept) == ["part-00000", "part-00002"]
    build_indexes(other, OWNERS, IndexConfig(), ROWS)
    assert kept.items() <= inodes(other.index_folder("tracin")).items()
    assert index_files(other) == in_process


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_costs_the_parts_that_read_it_alone(
    run: Run, in_process: dict[str, bytes], copy_run, workers: int, request: pytest.FixtureRequest
) -> None:
    if workers:
        request.getfixturevalue("ray_session")
    other = copy_run(run)
    checkpoint = Store.open(other.store_folder).plan.checkpoint_names[1]
    shard = other.store_folder / f"checkpoint={checkpoint}" / "shard-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(bytes(len(whole)))
    names = ["tracin", "random"]
    with pytest.raises(JobError, match=r"part-00000 of tracin \(rows 0 to 24; .*shard-00000\.parquet cannot be read"):
        build_indexes(other, names, IndexConfig(), ROWS, workers)
    folder = other.index_folder("tracin")
    assert not folder.exists()
    assert other.index_folder("random").is_dir()
    kept = inodes(folder.with_name("tracin.building"))
    assert sorted(kept) == ["part-00001", "part-00002"]
    events = list(read_events(events_path(other, INDEXING)))
    (failed,) = [event for event in events if event["event"] == "set_aside"]
    assert (failed["estimator"], failed["part"]) == ("tracin", "part-00000")
    assert "not built" in events[-1]["error"]

    shard.write_bytes(whole)
    build_indexes(other, names, IndexConfig(), ROWS)
    assert kept.items() <= inodes(folder).items()
    assert index_files(other) == of_estimators(in_process, *names)
    *_, last = read_events(events_path(other, INDEXING))
    assert (last["done"], last["total"]) == (114, 114)


def test_an_interrupted_build_goes_on_and_builds_no_finished_part_again(
    run: Run, in_process: dict[str, bytes], copy_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forebear.jobs.indexing import IndexWorker

    class Interrupted(IndexWorker):
        def vectors(self, part) -> Iterator[tuple[int, np.ndarray]]:
            for first, block in super().vectors(part):
                if first > 50:
                    raise KeyboardInterrupt
                yield first, block

    other = copy_run(run)
    with monkeypatch.context() as patched:
        patched.setattr("forebear.jobs.indexing.IndexWorker", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_indexes(other, OWNERS, IndexConfig(), ROWS)
    kept = inodes(other.folder / "index" / "tracin.building")
    assert sorted(kept) == ["part-00000", "part-00001"]
    build_indexes(other, OWNERS, IndexConfig(), ROWS)
    assert kept.items() <= inodes(other.index_folder("tracin")).items()
    assert index_files(other) == in_process


def test_workers_without_parts_are_refused(run: Run) -> None:
    before = set(run.folder.rglob("*"))
    with pytest.raises(ConfigError, match=r"one part is built by one process; give --shard-rows"):
        build_indexes(run, ["tracin"], IndexConfig(), workers=2)
    assert set(run.folder.rglob("*")) == before


def test_one_part_shows_its_progress_and_fails_as_it_is(run: Run, copy_run, capsys: pytest.CaptureFixture[str]) -> None:
    other = copy_run(run)
    build_indexes(other, ["tracin", "random"], IndexConfig())
    assert "indexing 114/114 images (100%)" in capsys.readouterr().err
    features = other.folder / "features"
    features.mkdir()
    np.save(features / "features.npy", np.full((60, 3), np.nan, np.float32))
    dataset = Store.open(other.store_folder).plan.dataset
    (features / "features.json").write_text(f'{{"dataset": "{dataset}"}}')
    with pytest.raises(SearchIndexError, match="the vector of row 0 is not finite"):
        build_indexes(other, ["embedding"], IndexConfig())
