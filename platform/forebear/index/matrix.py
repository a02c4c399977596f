"""The vectors of an index in half precision, memory mapped, and their exact inner products."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from forebear.errors import SearchIndexError
from forebear.files import whole_file
from forebear.store import from_half, to_half, widen

VECTORS_FILE = "vectors.f16"
SCALES_FILE = "scales.f32"

BLOCK_NUMBERS = 2**22
"""Numbers that are widened to float32 at a time: 16 MiB, whatever the number of rows."""
QUERY_TILE = 16
"""Queries are multiplied in tiles of this many, padded with zeros: one shape takes one path through BLAS, so that a
score does not depend on the queries beside it and equal rows get equal scores. Widening dominates the time anyway."""


class HalfMatrix:
    """float16[N, D] with a float32 scale for each row, read from two raw little-endian files."""

    def __init__(self, folder: Path, count: int, dim: int) -> None:
        self.count, self.dim = count, dim
        self.scales: NDArray[np.float32] = np.fromfile(folder / SCALES_FILE, "<f4").astype(np.float32)  # [N]
        self._halves = np.memmap(folder / VECTORS_FILE, np.dtype("<f2"), "r", shape=(count, dim))
        self._block_rows = max(1, BLOCK_NUMBERS // dim)

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32[M, D]: the vectors of the given rows."""
        return from_half(self._halves[rows], self.scales[rows])

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, float32[B, D]) in order."""
        for first in range(0, self.count, self._block_rows):
            block = slice(first, first + self._block_rows)
            yield first, from_half(self._halves[block], self.scales[block])

    def scores(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[Q, N]: inner products of queries float32[Q, D] with every row, accumulated in float32."""
        scores = np.empty((len(queries), self.count), np.float32)
        tiles = _tiles(queries)
        for first in range(0, self.count, self._block_rows):
            block = slice(first, first + self._block_rows)
            vectors = widen(self._halves[block])
            for number, tile in enumerate(tiles):
                rows = scores[number * QUERY_TILE : (number + 1) * QUERY_TILE]  # fewer in the last tile
                rows[:, block] = _products(vectors, self.scales[block], tile)[: len(rows)]
        return scores

    def scores_of(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32[M]: inner products of one query float32[D] with the given rows."""
        (tile,) = _tiles(query[None])
        scores: NDArray[np.float32] = _products(widen(self._halves[rows]), self.scales[rows], tile)[0]
        return scores


def write_matrix(folder: Path, blocks: Iterable[tuple[int, NDArray[np.float32]]], count: int, dim: int) -> HalfMatrix:
    """Write (first row, float32[B, D]) blocks, in order, as the matrix files of `folder`.

    Raises SearchIndexError when the blocks are not `count` rows of `dim` finite numbers.
    """
    scales = np.empty(count, "<f4")
    done = 0
    with whole_file(folder / VECTORS_FILE) as part, part.open("wb") as file:
        for first, block in blocks:
            if first != done or first + len(block) > count or block.shape[1:] != (dim,):
                raise SearchIndexError(
                    f"a block of shape {list(block.shape)} begins at row {first}; "
                    f"expected row {done} of {count} rows of {dim} numbers: is every checkpoint's store finished?"
                )
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                bad = first + int(np.argmin(finite))
                raise SearchIndexError(f"the vector of row {bad} is not finite; check the checkpoints' weights")
            halves, scales[done : done + len(block)] = to_half(block)
            halves.tofile(file)
            done += len(block)
    if done != count:
        raise SearchIndexError(
            f"the blocks hold {done} vectors for {count} samples; is every checkpoint's store finished?"
        )
    with whole_file(folder / SCALES_FILE) as part:
        scales.tofile(part)
    return HalfMatrix(folder, count, dim)


def _tiles(queries: NDArray[np.float32]) -> list[torch.Tensor]:
    """Queries float32[Q, D] as tensors float32[D, QUERY_TILE], the last one padded with zeros."""
    count, dim = queries.shape
    padded = np.zeros((-(-count // QUERY_TILE) * QUERY_TILE, dim), np.float32)
    padded[:count] = queries
    return [torch.from_numpy(tile).T for tile in padded.reshape(-1, QUERY_TILE, dim)]


def _products(vectors: torch.Tensor, scales: NDArray[np.float32], tile: torch.Tensor) -> NDArray[np.float32]:
    """float32[QUERY_TILE, B]: inner products of vectors [B, D] times scales [B] with tile [D, QUERY_TILE]."""
    products: NDArray[np.float32] = (vectors @ tile).T.numpy()  # [QUERY_TILE, B]
    products *= scales
    return products
