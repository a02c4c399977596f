"""Nearest-neighbour search over embeddings: exact, or FAISS."""

from forebear.index.building import build_index
from forebear.index.description import IndexConfig, IndexDescription, IndexMetadata, Recall, WeightedCheckpoint
from forebear.index.ranking import best_rows
from forebear.index.searching import SearchResult, VectorIndex

__all__ = [
    "IndexConfig",
    "IndexDescription",
    "IndexMetadata",
    "Recall",
    "SearchResult",
    "VectorIndex",
    "WeightedCheckpoint",
    "best_rows",
    "build_index",
]
