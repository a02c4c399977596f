"""Inner products of queries with rows of half precision, which are widened to float32 a cacheful at a time."""

import threading
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

LANES = 16
"""Rows of a block and numbers of a row are multiples of this: no kernel has a remainder to treat in another way."""
QUICK_NUMBERS = 2**18
"""Numbers that are widened at a time: they stay in the processor's cache."""


Number = TypeVar("Number", np.float16, np.int8)


def gather(rows: NDArray[Number], chosen: NDArray[np.int64], buffer: NDArray[Number]) -> NDArray[Number]:
    """The chosen ones of rows [N, D], none of them out of range, copied to the beginning of a buffer [B, D]."""
    # With "clip" whole rows go straight to where they shall be; to raise an error, numpy would copy them twice.
    return rows.take(chosen, axis=0, out=buffer[: len(chosen)], mode="clip")


class HalfProducts:
    """The products of rows float16[N, D], as a file maps them. Threads may ask at the same time."""

    def __init__(self, rows: NDArray[np.float16]) -> None:
        """The memory of `rows` may not be read-only, or torch would copy it; it is not written to."""
        self._rows, self._mapped = rows, torch.from_numpy(rows)
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
        asked = pad(torch.from_numpy(np.ascontiguousarray(queries)), (0, self._padded - self._dim))
        copied, narrow, wide = self._buffers()
        products = torch.empty((len(queries), -(-count // self._size) * self._size))
        for first in range(0, count, self._size):
            last = first + self._size
            if rows is None:
                block = self._mapped[first:last]
            else:
                chosen = rows[first:last]
                gather(self._rows, chosen, copied)
                block = narrow[: len(chosen)]
            wide[: len(block), : self._dim].copy_(block)
            for number in range(len(queries)):
                # What the last block holds beyond the rows was there before; its products are cut off.
                torch.mv(wide, asked[number], out=products[number, first:last])
        found: NDArray[np.float32] = products.numpy()[:, :count]
        return found

    def _buffers(self) -> tuple[NDArray[np.float16], Tensor, Tensor]:
        """A block float16[B, D] as it is in the file, twice the same memory, and float32[B, padded], widened.

        Kept for each thread: fresh memory would cost more than what is done with it.
        """
        if not hasattr(self._held, "buffers"):
            copied = np.empty((self._size, self._dim), np.float16)
            self._held.buffers = (copied, torch.from_numpy(copied), torch.zeros((self._size, self._padded)))
        found: tuple[NDArray[np.float16], Tensor, Tensor] = self._held.buffers
        return found
