"""Features that the user brings for the `embedding` baseline: one vector for each training image."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forebear.data import TrainingSet
from forebear.errors import ConfigError, DataError
from forebear.files import read_json, whole_file, write_json
from forebear.run import Run

REMEDY = "give a Parquet file with the columns sample_id and one list of numbers, or a .npy of [N, d] in row order"


def features_file(run: Run) -> Path:
    return run.folder / "features" / "features.npy"


def import_features(run: Run, training_set: TrainingSet, source: Path, removed: Collection[str] = frozenset()) -> None:
    """Keep the features of a file in the run, in the order of the training set, those of `open_whole`.

    `source` is Parquet with `sample_id` and one list column, rows in any order and of any other samples too, or .npy
    float[N, d] in row order. Those of `removed` samples may be missing and count as 0. Raises DataError when it cannot
    be read, a sample is missing or a number is not finite.
    """
    rows = _from_npy(source) if source.suffix == ".npy" else _from_parquet(source, training_set, removed)
    if rows.ndim != 2 or len(rows) != len(training_set) or not rows.size:
        raise DataError(f"{source} holds {list(rows.shape)} numbers for {len(training_set)} images; {REMEDY}")
    if not np.isfinite(rows).all():
        raise DataError(f"{source} holds numbers that are not finite; every image needs a whole vector")
    path = features_file(run)
    with whole_file(path) as part, part.open("wb") as handle:
        np.save(handle, rows.astype(np.float32))
    write_json(path.with_suffix(".json"), {"dataset": training_set.fingerprint})


def read_features(run: Run, dataset: str) -> NDArray[np.float32]:
    """float32[N, d], mapped; raises ConfigError when there are none for the training set of this fingerprint."""
    path = features_file(run)
    remedy = f"run `forebear index --run {run.folder} --estimator embedding --features FILE`"
    said = read_json(path.with_suffix(".json"), ConfigError, remedy)
    if said.get("dataset") != dataset:
        raise ConfigError(f"the features in {path.parent} are those of other training images; {remedy}")
    try:
        rows: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as broken:
        raise ConfigError(f"{path} cannot be read ({broken}); {remedy}") from None
    return rows


def _from_npy(source: Path) -> NDArray[np.floating]:
    try:
        rows: NDArray[np.floating] = np.load(source, allow_pickle=False)
    except (OSError, ValueError, EOFError) as broken:
        raise DataError(f"{source} cannot be read ({broken}); {REMEDY}") from None
    if rows.dtype.kind != "f":
        raise DataError(f"{source} holds {rows.dtype}; {REMEDY}")
    return rows


def _from_parquet(source: Path, training_set: TrainingSet, removed: Collection[str]) -> NDArray[np.floating]:
    try:
        table = pq.read_table(source)
    except (pa.ArrowException, OSError) as broken:
        raise DataError(f"{source} cannot be read ({str(broken).splitlines()[0]}); {REMEDY}") from None
    lists = [
        field.name
        for field in table.schema
        if (
            pa.types.is_list(field.type)
            or pa.types.is_large_list(field.type)
            or pa.types.is_fixed_size_list(field.type)
        )
    ]
    if "sample_id" not in table.column_names or len(lists) != 1:
        raise DataError(f"{source} has the columns {', '.join(table.column_names)}; {REMEDY}")
    by_id = dict(zip(table["sample_id"].to_pylist(), table[lists[0]].to_pylist(), strict=True))
    blank = [0.0] * len(next((row for row in by_id.values() if row is not None), ()))
    by_id |= {name: blank for name in removed if by_id.get(name) is None}
    missing = [sample.id for sample in training_set.samples if by_id.get(sample.id) is None]
    if missing:
        raise DataError(f"{source} has no features of {len(missing)} training images, such as {missing[0]}; add them")
    try:
        return np.array([by_id[sample.id] for sample in training_set.samples], np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{source}: the lists differ in length or hold no numbers; {REMEDY}") from None
