"""Features that users bring: by sample id or in row order, and refused when they do not fit."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forebear.attribution.features import import_features, read_features
from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.errors import ConfigError, DataError
from forebear.index import IndexConfig
from forebear.jobs import build_indexes
from forebear.run import Run


@pytest.fixture
def training_set() -> TrainingSet:
    return open_training_set(DataConfig("digits", limit=6))


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)


def write(path: Path, ids: list[str], rows: np.ndarray, name: str = "clip") -> Path:
    pq.write_table(pa.table({"sample_id": ids, name: list(rows)}), path)
    return path


def test_parquet_goes_by_sample_id(tmp_path: Path, training_set: TrainingSet, rows: np.ndarray) -> None:
    ids = [sample.id for sample in training_set.samples]
    order = [3, 1, 5, 0, 4, 2]
    source = write(
        tmp_path / "f.parquet", [*(ids[row] for row in order), "a stranger"], np.vstack([rows[order], rows[:1]])
    )
    run = Run(tmp_path / "run")
    import_features(run, training_set, source)
    np.testing.assert_array_equal(read_features(run, training_set.fingerprint), rows)


def test_npy_goes_by_row(tmp_path: Path, training_set: TrainingSet, rows: np.ndarray) -> None:
    np.save(tmp_path / "f.npy", rows.astype(np.float64))
    run = Run(tmp_path / "run")
    import_features(run, training_set, tmp_path / "f.npy")
    np.testing.assert_array_equal(read_features(run, training_set.fingerprint), rows)
    with pytest.raises(ConfigError, match=r"other training images.*--features"):
        read_features(run, "another")


def test_without_features_there_is_no_embedding(writable_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"forebear index .*--features FILE"):
        read_features(Run(tmp_path), "any")
    for file in (writable_run.folder / "features").iterdir():
        file.unlink()
    with pytest.raises(ConfigError, match="--features FILE"):
        build_indexes(writable_run, ["embedding"], IndexConfig())
    assert "embedding" not in [
        one.description.metadata.estimator for one in build_indexes(writable_run, None, IndexConfig())
    ]


def test_what_does_not_fit_is_refused(tmp_path: Path, training_set: TrainingSet, rows: np.ndarray) -> None:
    run, ids = Run(tmp_path / "run"), [sample.id for sample in training_set.samples]
    rows[2, 1] = np.inf
    np.save(tmp_path / "infinite.npy", rows)
    np.save(tmp_path / "short.npy", rows[:4])
    np.save(tmp_path / "whole.npy", np.ones((6, 3), int))
    (tmp_path / "text.npy").write_text("no numbers")
    (tmp_path / "text.parquet").write_text("no table")
    write(tmp_path / "missing.parquet", ids[:5], rows[:5])
    pq.write_table(pa.table({"sample_id": ids, "clip": [[1.0], [1.0, 2.0], *[[1.0]] * 4]}), tmp_path / "ragged.parquet")
    pq.write_table(pa.table({"sample_id": ids}), tmp_path / "none.parquet")
    for name, words in {
        "infinite.npy": "not finite",
        "short.npy": r"\[4, 3\] numbers for 6 images",
        "whole.npy": "int64",
        "text.npy": "cannot be read",
        "absent.npy": "cannot be read",
        "text.parquet": "cannot be read",
        "missing.parquet": f"no features of 1 training images, such as {ids[5]}",
        "ragged.parquet": "differ in length",
        "none.parquet": "columns sample_id;",
    }.items():
        with pytest.raises(DataError, match=words):
            import_features(run, training_set, tmp_path / name)
    assert not run.folder.exists()
