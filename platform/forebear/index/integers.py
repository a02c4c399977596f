"""Inner products of vectors of int8 by NumKong, whose SIMD instructions multiply bytes as they are.

Float32 copies of the same numbers would take four times the memory's bandwidth, which is what a single query waits for.
The products are whole numbers without rounding, so none depends on what is asked beside it.
"""

import math
import threading

import numpy as np
from numpy.typing import NDArray

from forebear.index.libraries import import_numkong
from forebear.index.products import gather

LARGEST = 127
"""Of a rounded number's magnitudes."""
LARGEST_SUM = 2**31 - 1
"""That NumKong is sure to add up."""
GATHERED_BYTES = 2**17
"""Of rows that are copied out of a file at a time: they stay in the cache next to the processor."""


def rounded(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Vectors float32[N, D] as int8[N, D], each in steps float32[N] of its own: a step is 1/127 of its largest number.

    Of vectors so long that a product of two could pass 2**31, more. Vectors of zeros have steps of 0.
    """
    largest = min(LARGEST, math.isqrt(LARGEST_SUM // vectors.shape[1]))
    peaks = np.abs(vectors).max(axis=1, keepdims=True)  # [N, 1]
    whole = np.rint(vectors / np.where(peaks > 0, peaks, 1) * np.float32(largest)).astype(np.int8)
    return whole, (peaks[:, 0] / np.float32(largest)).astype(np.float32)


class ByteRows:
    """Rows int8[N, D], in memory or as a file maps them. Threads may ask at the same time."""

    def __init__(self, rows: NDArray[np.int8]) -> None:
        self._rows = rows
        self._size = max(1, GATHERED_BYTES // rows.shape[1])
        self._held = threading.local()
        self._cdist = import_numkong().cdist

    def products(self, queries: NDArray[np.int8]) -> NDArray[np.float64]:
        """float64[Q, N]: the products of queries int8[Q, D] with all rows."""
        return np.asarray(self._cdist(queries, self._rows, "dot"))

    def products_with(self, query: NDArray[np.int8], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """float64[M]: the products of a query int8[D] with the given rows."""
        found, asked, buffer = np.empty(len(rows)), query[None], self._buffer()
        for first in range(0, len(rows), self._size):
            here = slice(first, first + self._size)
            self._cdist(asked, gather(self._rows, rows[here], buffer), "dot", out=found[None, here])
        return found

    def _buffer(self) -> NDArray[np.int8]:
        """int8[B, D], kept for each thread: fresh memory would cost more than what is done with it."""
        if not hasattr(self._held, "buffer"):
            self._held.buffer = np.empty((self._size, self._rows.shape[1]), np.int8)
        buffer: NDArray[np.int8] = self._held.buffer
        return buffer
