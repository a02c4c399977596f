"""Embeddings on disk: Parquet shards and their manifest."""

from forebear.store.half import from_half, to_half, widen
from forebear.store.manifest import SIGN, Manifest, prepare_store, read_manifest, write_manifest
from forebear.store.plan import VECTOR_COLUMNS, PlannedCheckpoint, StorePlan
from forebear.store.reader import Store
from forebear.store.shard import EmbeddingRows, ShardRecord, shard_done, shard_path, write_shard

__all__ = [
    "SIGN",
    "VECTOR_COLUMNS",
    "EmbeddingRows",
    "Manifest",
    "PlannedCheckpoint",
    "ShardRecord",
    "Store",
    "StorePlan",
    "from_half",
    "prepare_store",
    "read_manifest",
    "shard_done",
    "shard_path",
    "to_half",
    "widen",
    "write_manifest",
    "write_shard",
]
