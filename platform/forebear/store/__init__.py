"""Embeddings on disk: Parquet shards and their manifest."""

from forebear.estimators import SIGN
from forebear.store.half import from_half, to_half, widen
from forebear.store.manifest import Manifest, prepare_store, read_manifest, write_manifest
from forebear.store.plan import VECTOR_COLUMNS, PlannedCheckpoint, StorePlan
from forebear.store.reader import Store
from forebear.store.removed import read_removed, remove_samples, restore_samples
from forebear.store.samples import SampleRecords, read_samples, take_samples, write_samples
from forebear.store.shard import EmbeddingRows, ShardRecord, shard_done, shard_path, write_shard

__all__ = [
    "SIGN",
    "VECTOR_COLUMNS",
    "EmbeddingRows",
    "Manifest",
    "PlannedCheckpoint",
    "SampleRecords",
    "ShardRecord",
    "Store",
    "StorePlan",
    "from_half",
    "prepare_store",
    "read_manifest",
    "read_removed",
    "read_samples",
    "remove_samples",
    "restore_samples",
    "shard_done",
    "shard_path",
    "take_samples",
    "to_half",
    "widen",
    "write_manifest",
    "write_samples",
    "write_shard",
]
