"""One shard: a Parquet file of embeddings, and the sidecar that says it is whole."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as validated

from forebear.config import STRICT, parse, plain
from forebear.errors import ForebearError, StoreError
from forebear.files import fingerprint, read_json, sha256_of_file, whole_file, write_json
from forebear.store.half import to_half
from forebear.store.plan import StorePlan

ROW_GROUP_ROWS = 4096
SEGMENT_NAME = re.compile(r"segment-\d{4,}")
"""Of the folders, within a store, of what was added later."""
NAMED_IN_ERRORS = 5
"""At most this many sample ids are spelled out in one message."""


class NotFiniteError(StoreError):
    """Samples have gradients that cannot be stored; others are not touched by it."""


@dataclass(frozen=True)
class EmbeddingRows:
    """Embeddings of N samples at one checkpoint, as the gradient engine gives them.

    T is the number of timesteps of a sample, k the dimension of a vector.
    """

    sample_ids: list[str]
    rows: NDArray[np.int64]
    """int64[N], positions in the training set."""
    vectors: dict[str, NDArray[np.float32]]
    """float32[N, k] by column name."""
    norms: NDArray[np.float32]
    """float32[N, T], L2 norm of the full gradient before projection."""
    losses: NDArray[np.float32]
    """float32[N, T]."""
    timesteps: NDArray[np.int32]
    """int32[N, T]."""


@validated(frozen=True, config=STRICT)
class ShardRecord:
    """What the sidecar of a shard says; the manifest repeats it."""

    checkpoint: str
    """Its name."""
    shard: int
    """Number within the checkpoint, from 0."""
    rows: int
    """In the shard."""
    first_row: int
    """Of the store."""
    last_row: int
    """Of the store, included."""
    samples: str
    """Fingerprint of the sample ids in order: equal for the same shard of every checkpoint."""
    bytes: int
    """Of the Parquet file."""
    sha256: str
    """Of the Parquet file."""
    plan_hash: str
    """Of the plan that it was made by."""
    min_norm: float
    """Least of its gradient norms."""
    max_norm: float
    """Largest of them."""
    all_finite: bool
    """Always true: others are not written."""


def shard_path(folder: Path, checkpoint: str, shard: int) -> Path:
    return folder / f"checkpoint={checkpoint}" / f"shard-{shard:05d}.parquet"


def sidecar_path(folder: Path, checkpoint: str, shard: int) -> Path:
    return shard_path(folder, checkpoint, shard).with_suffix(".json")


def rebuild(folder: Path) -> str:
    """The remedy for a damaged or missing shard of the store in `folder`."""
    return f"run `forebear embed --run {run_folder(folder)}`, which computes missing and damaged shards again"


def run_folder(folder: Path) -> Path:
    """The run of a store, or of one of its segments."""
    return folder.parent.parent if SEGMENT_NAME.fullmatch(folder.name) else folder.parent


def shard_schema(plan: StorePlan, checkpoint: str, shard: int) -> pa.Schema:
    """The Arrow schema of a shard.

    Vectors are bytes, because Parquet keeps a level per number of a list column and reads those ten times slower.
    Per-timestep values are few and stay lists, which every reader understands.
    """
    per_timestep = {"norms": pa.float32(), "losses": pa.float32(), "timesteps": pa.int32()}
    fields = [pa.field("sample_id", pa.string(), nullable=False), pa.field("row", pa.int64(), nullable=False)]
    for name in plan.columns:
        about = {"dtype": "float16", "byte_order": "little", "dim": str(plan.dim), "scale": f"{name}_scale"}
        fields.append(pa.field(name, pa.binary(2 * plan.dim), nullable=False, metadata=about))
        fields.append(pa.field(f"{name}_scale", pa.float32(), nullable=False))
    for name, kind in per_timestep.items():
        element = pa.field("element", kind, nullable=False)
        fields.append(pa.field(name, pa.list_(element, plan.timesteps_per_sample), nullable=False))
    return pa.schema(
        fields,
        metadata={
            "forebear.format_version": str(plan.format_version),
            "forebear.plan_hash": plan.hash,
            "forebear.checkpoint": checkpoint,
            "forebear.shard": str(shard),
            "forebear.dim": str(plan.dim),
            "forebear.vectors": "float16 little-endian; multiply by the scale column of the same row",
        },
    )


def write_shard(folder: Path, plan: StorePlan, checkpoint: str, shard: int, rows: EmbeddingRows) -> ShardRecord:
    """Write one shard and then its sidecar, each whole or not at all.

    The bytes are a function of `rows` and `plan` alone. Raises StoreError before anything is written when the rows are
    not those of the plan, or when a vector, norm or loss is not finite.
    """
    _check_rows(plan, checkpoint, shard, rows)
    _check_finite(checkpoint, rows)
    table = _table(plan, checkpoint, shard, rows)
    return write_table(folder, plan, checkpoint, shard, table, (float(rows.norms.min()), float(rows.norms.max())))


def write_table(
    folder: Path, plan: StorePlan, checkpoint: str, shard: int, table: pa.Table, norms: tuple[float, float]
) -> ShardRecord:
    """Write a shard whose numbers are encoded already, with the lowest and the highest of its norms; unchecked."""
    path = shard_path(folder, checkpoint, shard)
    with whole_file(path) as part:
        pq.write_table(
            table,
            part,
            row_group_size=ROW_GROUP_ROWS,
            compression="none",
            use_dictionary=False,
            write_statistics=["sample_id", "row"],
            write_page_checksum=True,
        )
        size, digest = part.stat().st_size, sha256_of_file(part)
    planned = plan.shard_range(shard)
    record = ShardRecord(
        checkpoint=checkpoint,
        shard=shard,
        rows=len(planned),
        first_row=planned.start,
        last_row=planned.stop - 1,
        samples=fingerprint(table["sample_id"].to_pylist()),
        bytes=size,
        sha256=digest,
        plan_hash=plan.hash,
        min_norm=norms[0],
        max_norm=norms[1],
        all_finite=True,
    )
    write_json(sidecar_path(folder, checkpoint, shard), plain(record))
    return record


def read_sidecar(folder: Path, checkpoint: str, shard: int) -> ShardRecord:
    """The record of a shard; raises StoreError when the sidecar is missing or is not one."""
    path = sidecar_path(folder, checkpoint, shard)
    values = read_json(path, StoreError, rebuild(folder))
    try:
        return parse(ShardRecord, values, str(path))
    except ForebearError as invalid:
        raise StoreError(f"{invalid}; {rebuild(folder)}") from None


def shard_done(folder: Path, plan: StorePlan, checkpoint: str, shard: int, *, rehash: bool = True) -> bool:
    """Whether a shard is whole and belongs to the plan, so that embedding it again would give the same file.

    `rehash=False` trusts the size of the file instead of its checksum: quick on very large stores.
    """
    try:
        record = read_sidecar(folder, checkpoint, shard)
    except StoreError:
        return False
    path = shard_path(folder, checkpoint, shard)
    planned = plan.shard_range(shard)
    return (
        record.plan_hash == plan.hash
        and (record.checkpoint, record.shard) == (checkpoint, shard)
        and (record.first_row, record.rows) == (planned.start, len(planned))
        and path.is_file()
        and path.stat().st_size == record.bytes
        and (not rehash or sha256_of_file(path) == record.sha256)
    )


def _check_rows(plan: StorePlan, checkpoint: str, shard: int, rows: EmbeddingRows) -> None:
    """Raise StoreError unless the rows are exactly what the plan puts into this shard."""
    where = f"shard {shard} of checkpoint {checkpoint}"
    if checkpoint not in plan.checkpoint_names or not 0 <= shard < plan.shards_per_checkpoint:
        raise StoreError(f"{where} is not in the plan; take shards from StorePlan.shards()")
    planned = plan.shard_range(shard)
    count, steps = len(planned), plan.timesteps_per_sample
    expected: dict[str, tuple[NDArray[Any] | None, type, tuple[int, ...]]] = {
        "rows": (rows.rows, np.int64, (count,)),
        "norms": (rows.norms, np.float32, (count, steps)),
        "losses": (rows.losses, np.float32, (count, steps)),
        "timesteps": (rows.timesteps, np.int32, (count, steps)),
        **{name: (rows.vectors.get(name), np.float32, (count, plan.dim)) for name in plan.columns},
    }
    for name, (array, kind, shape) in expected.items():
        if array is None or array.dtype != kind or array.shape != shape:
            found = "missing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise StoreError(f"{where}: {name} is {found}, the plan needs {np.dtype(kind)}{list(shape)}")
    if unplanned := sorted(set(rows.vectors) - set(plan.columns)):
        raise StoreError(f"{where}: the plan has no vector column {', '.join(unplanned)}; name it in StorePlan.columns")
    if not np.array_equal(rows.rows, np.arange(planned.start, planned.stop)):
        raise StoreError(f"{where}: rows must be {planned.start} to {planned.stop - 1} in order")
    if len(rows.sample_ids) != count or len(set(rows.sample_ids)) != count:
        raise StoreError(f"{where}: {count} different sample ids are needed, one for each row")


def _check_finite(checkpoint: str, rows: EmbeddingRows) -> None:
    finite = np.isfinite(rows.norms).all(axis=1) & np.isfinite(rows.losses).all(axis=1)  # [N]
    for vectors in rows.vectors.values():
        finite &= np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise NotFiniteError(
            f"the gradients of {some_of([rows.sample_ids[row] for row in np.flatnonzero(~finite)])} at checkpoint "
            f"{checkpoint} are not finite; nothing was written. Check these pictures and the checkpoint's weights"
        )


def some_of(names: Sequence[str]) -> str:
    """The first few names and how many more there are."""
    more = len(names) - NAMED_IN_ERRORS
    return ", ".join(names[:NAMED_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")


def _table(plan: StorePlan, checkpoint: str, shard: int, rows: EmbeddingRows) -> pa.Table:
    schema = shard_schema(plan, checkpoint, shard)
    arrays: list[pa.Array] = [pa.array(rows.sample_ids, pa.string()), pa.array(rows.rows, pa.int64())]
    for name in plan.columns:
        halves, scales = to_half(rows.vectors[name])  # [N, k], [N]
        arrays.append(_bytes_column(halves))
        arrays.append(pa.array(scales, pa.float32()))
    for name, values in (("norms", rows.norms), ("losses", rows.losses), ("timesteps", rows.timesteps)):
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field(name).type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _bytes_column(halves: NDArray[np.float16]) -> pa.Array:
    """float16[N, k] as an Arrow column of N byte strings, without a copy."""
    count, dim = halves.shape
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * dim), count, [None, pa.py_buffer(halves)])
