"""Nearest-neighbour search over embeddings: exact, or FAISS; in one part or many."""

from forebear.index.building import build_index
from forebear.index.description import IndexConfig, IndexDescription, IndexMetadata, Recall, WeightedCheckpoint
from forebear.index.interface import Device, SearchIndex, SearchResult
from forebear.index.opening import open_search_index
from forebear.index.ranking import best_rows
from forebear.index.searching import VectorIndex, check_recall
from forebear.index.serving import serve_sharded_index
from forebear.index.sharded import ShardedIndex
from forebear.index.sharding import Part, ShardedBuild

__all__ = [
    "Device",
    "IndexConfig",
    "IndexDescription",
    "IndexMetadata",
    "Part",
    "Recall",
    "SearchIndex",
    "SearchResult",
    "ShardedBuild",
    "ShardedIndex",
    "VectorIndex",
    "WeightedCheckpoint",
    "best_rows",
    "build_index",
    "check_recall",
    "open_search_index",
    "serve_sharded_index",
]
