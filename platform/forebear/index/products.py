"""Inner products of queries with rows of narrow numbers, which are widened to float32 a cacheful at a time."""

import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LANES = 16
"""Rows of a block and numbers of a row are multiples of this: no kernel has a remainder to treat in another way."""
QUICK_NUMBERS = 2**18
"""Numbers that are widened at a time: they stay in the processor's cache."""


class RowProducts:
    """The products of rows [N, D] of any real type, as a file maps them. Threads may ask at the same time."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self._count, self._dim = rows.shape
        self._padded = -(-self._dim // LANES) * LANES  # equal alignment of all rows
        self._size = max(LANES, QUICK_NUMBERS // self._padded // LANES * LANES)
        self._held = threading.local()

    def of(self, queries: NDArray[np.float32], rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """float32[Q, M]: products of queries float32[Q, D] with the given rows, or with all, summed in float32.

        Every product is one of a whole block with one query. One shape takes one path through BLAS, so that a product
        does not depend on the queries and rows beside it, and equal rows get equal products.
        """
        count = self._count if rows is None else len(rows)
        chosen = None if rows is None else torch.from_numpy(rows)
        asked = torch.zeros((len(queries), self._padded))
        asked[:, : self._dim] = torch.from_numpy(np.ascontiguousarray(queries))
        narrow, wide, filled = self._buffers()
        products = torch.empty((len(queries), -(-count // self._size) * self._size))
        pairs = list(zip(asked, products, strict=True))
        for first in range(0, count, self._size):
            rows_here = min(self._size, count - first)
            if chosen is None:
                block = self._rows[first : first + rows_here]
            else:
                block = narrow if rows_here == self._size else narrow[:rows_here]
                # index_select copies whole rows; [] would take three times as long for numbers of 16 bits.
                torch.index_select(self._rows, 0, chosen[first : first + rows_here], out=block)
            (filled if rows_here == self._size else filled[:rows_here]).copy_(block)
            for query, line in pairs:
                # What the last block holds beyond the rows was there before; its products are cut off.
                torch.mv(wide, query, out=line[first : first + self._size])
        found: NDArray[np.float32] = products.numpy()[:, :count]
        return found

    def _buffers(self) -> tuple[Tensor, Tensor, Tensor]:
        """A block [size, D] as it is in the file, and widened [size, padded], and what of that is no padding.

        Kept for each thread: fresh memory would cost more than what is done with it.
        """
        if not hasattr(self._held, "buffers"):
            wide = torch.zeros((self._size, self._padded))
            narrow = torch.empty((self._size, self._dim), dtype=self._rows.dtype)
            self._held.buffers = (narrow, wide, wide[:, : self._dim])
        found: tuple[Tensor, Tensor, Tensor] = self._held.buffers
        return found
