"""Gigabytes a second in and out of real store shards: real embeddings, repeated to the size of a large shard."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from forebear.store import EmbeddingRows, Store, prepare_store, write_manifest, write_shard


@dataclass(frozen=True)
class Rates:
    """Bytes of the shard's file a second, medians."""

    rows: int
    shard_bytes: int
    write: float
    """Halves made, columns checked, Parquet written with page checksums, hashed, synced, renamed, sidecar."""
    verify: float
    """Read and hashed."""
    read: float
    """Vectors of one column, from the page cache, as float32; bytes are those of the halves that were read."""


def measure(store: Store, rows: int, repeats: int) -> dict[str, Any]:
    """Of shards with `rows` rows, written `repeats` times."""
    checkpoint = store.plan.checkpoint_names[-1]
    given = _repeated(store, checkpoint, rows)
    plan = replace(store.plan, sample_count=rows, shard_rows=rows, checkpoints=store.plan.checkpoints[-1:])
    column = plan.columns[0]
    writes, verifies, reads = [], [], []
    with TemporaryDirectory(prefix="forebear-scale-", dir=store.folder.parent) as folder:
        for number in range(repeats):
            target = Path(folder) / str(number)
            prepare_store(target, plan, {checkpoint: 1.0})
            took, record = _timed(lambda target=target: write_shard(target, plan, checkpoint, 0, given))
            writes.append(record.bytes / took)
            write_manifest(target)
            written = Store.open(target)
            verifies.append(record.bytes / _timed(written.verify)[0])
            took, vectors = _timed(lambda written=written: written.vectors(checkpoint, column))
            reads.append(vectors.size * 2 / took)
    return asdict(Rates(rows, record.bytes, median(writes), median(verifies), median(reads)))


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _repeated(store: Store, checkpoint: str, rows: int) -> EmbeddingRows:
    places = np.arange(rows) % len(store)
    return EmbeddingRows(
        sample_ids=[f"{number:020d}" for number in range(rows)],
        rows=np.arange(rows, dtype=np.int64),
        vectors={column: store.vectors(checkpoint, column)[places] for column in store.plan.columns},
        norms=store.norms(checkpoint)[places],
        losses=store.losses(checkpoint)[places],
        timesteps=store.timesteps(checkpoint)[places],
    )
