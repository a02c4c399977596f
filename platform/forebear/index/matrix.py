"""The vectors of an index in half precision, memory mapped, and their exact inner products."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forebear.errors import SearchIndexError
from forebear.files import whole_file
from forebear.index.products import HalfProducts
from forebear.store import from_half, to_half

VECTORS_FILE = "vectors.f16"
SCALES_FILE = "scales.f32"

BLOCK_NUMBERS = 2**22
"""Numbers that are widened to float32 at a time: 16 MiB, whatever the number of rows."""
QUERY_TILE = 16
"""Queries that are scored together at least, where memory bounds how many."""


class HalfMatrix:
    """float16[N, D] with a float32 scale for each row, read from two raw little-endian files."""

    def __init__(self, folder: Path, count: int, dim: int) -> None:
        self.count, self.dim = count, dim
        self.scales: NDArray[np.float32] = np.fromfile(folder / SCALES_FILE, "<f4").astype(np.float32)  # [N]
        # Copy on write: torch takes memory that could be written to without copying it, and nothing is written.
        mapped = np.memmap(folder / VECTORS_FILE, np.dtype("<f2"), "c", shape=(count, dim))
        self._halves: NDArray[np.float16] = np.asarray(mapped).astype(np.float16, copy=False)
        self._products = HalfProducts(self._halves)
        self._block_rows = max(1, BLOCK_NUMBERS // dim)

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32[M, D]: the vectors of the given rows."""
        return from_half(self._halves[rows], self.scales[rows])

    def halves(self, rows: slice) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
        """float16[B, D] and scales float32[B] of consecutive rows, copied out of the file."""
        return np.array(self._halves[rows], np.float16), self.scales[rows]

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, float32[B, D]) in order."""
        for first in range(0, self.count, self._block_rows):
            block = slice(first, first + self._block_rows)
            yield first, from_half(self._halves[block], self.scales[block])

    def scores(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[Q, N]: inner products of queries float32[Q, D] with every row, accumulated in float32."""
        found = self._products.of(queries)
        found *= self.scales
        return found

    def scores_of(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32[Q, M]: inner products of queries float32[Q, D] with the given rows, bit for bit those of `scores`."""
        found = self._products.of(queries, rows)
        found *= self.scales[rows]
        return found


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
