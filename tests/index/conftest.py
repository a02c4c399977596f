"""Vectors to index."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebear.index import IndexConfig, IndexMetadata, VectorIndex, WeightedCheckpoint, build_index
from forebear.randomness import keyed_normal

METADATA = IndexMetadata(
    estimator="retrac", store_plan_hash="plan-1", checkpoints=(WeightedCheckpoint("step-00000010", 0.5),)
)


def cut(vectors: np.ndarray, size: int = 7, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """(row, block) in order; `first` is the row of the first vector."""
    for start in range(0, len(vectors), size):
        yield first + start, vectors[start : start + size]


def index_of(folder: Path, vectors: np.ndarray, **config: Any) -> VectorIndex:
    ids = [f"sample-{row}" for row in range(len(vectors))]
    return build_index(folder, cut(vectors), vectors.shape[1], ids, config=IndexConfig(**config), metadata=METADATA)


@pytest.fixture(scope="session")
def metadata() -> IndexMetadata:
    return METADATA


@pytest.fixture(scope="session")
def in_blocks() -> Callable[..., Iterator[tuple[int, np.ndarray]]]:
    return cut


@pytest.fixture(scope="session")
def build() -> Callable[..., VectorIndex]:
    """Build an index of float32[N, D] in blocks of 7 rows."""
    return index_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "index" / "retrac"


@pytest.fixture
def vectors() -> np.ndarray:
    return keyed_normal((50, 12), "vectors")


@pytest.fixture
def queries() -> np.ndarray:
    return keyed_normal((20, 12), "queries")
