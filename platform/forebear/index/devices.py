"""Exact search on a GPU: it proposes rows, and their scores are then computed from the store as on any other machine.

So a GPU changes how long an answer takes, never its scores. faiss-gpu's flat index is used where it is installed, and
plain torch otherwise. FAISS 1.15 has no RaBitQ for GPUs; a GPU's memory bandwidth makes exact search the quick one.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from forebear.errors import SearchIndexError
from forebear.index.interface import Device
from forebear.index.matrix import HalfMatrix
from forebear.index.ranking import Proposer

SPARE = 1.2
"""A GPU must have this many times the memory that the vectors take, or they are sent to it for each search."""
MOST_OF_FAISS = 2048
"""Longest answer of FAISS on a GPU."""
BLOCK_BYTES = 2**28
"""Vectors that are widened to float32 at a time, at most; less where the GPU has less free."""


def proposer_on(device: Device, matrix: HalfMatrix) -> Proposer | None:
    """Exact search on the device asked for; None when that is the CPU, where all scores are computed at once.

    Raises SearchIndexError when `cuda` is asked for and not there.
    """
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise SearchIndexError("no CUDA device is there; install torch with CUDA, or choose device cpu or auto")
    if device == "cpu" or not there:
        return None
    free, _ = torch.cuda.mem_get_info()
    fits = free >= SPARE * matrix.count * (2 * matrix.dim + 4)
    if device == "auto" and not fits:
        return None
    return OnFirstSearch(lambda: _flat_on_gpu(matrix, fits=fits))


class OnFirstSearch:
    """Sends nothing to a device before something is searched for: who only reads scores needs none."""

    def __init__(self, make: Callable[[], Proposer]) -> None:
        self._make = make
        self._made: Proposer | None = None

    def candidates(self, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """As Proposer says."""
        if self._made is None:
            self._made = self._make()
        return self._made.candidates(queries, count)


class TorchFlat:
    """All scores by torch, in blocks: vectors in half precision, sums in float32.

    `kept`: the vectors stay on the device; otherwise each search sends them there.
    """

    def __init__(self, matrix: HalfMatrix, device: torch.device, *, kept: bool) -> None:
        self._matrix, self._device = matrix, device
        self._rows = _block_rows(matrix.dim, device)
        self._blocks = list(self._sent()) if kept else None

    def candidates(self, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """int64[Q, count], best first, for queries float32[Q, D]."""
        asked = torch.from_numpy(queries).to(self._device).T.contiguous()  # [D, Q]
        best = torch.empty((0, len(queries)), device=self._device)
        rows = torch.empty((0, len(queries)), dtype=torch.int64, device=self._device)
        for first, halves, scales in self._blocks or self._sent():
            scores = (halves.float() @ asked) * scales[:, None]  # [B, Q]
            found, places = scores.topk(min(count, len(scores)), dim=0)
            best, rows = torch.cat([best, found]), torch.cat([rows, places + first])
            best, order = best.topk(min(count, len(best)), dim=0)
            rows = rows.gather(0, order)
        return _wide(rows.T.cpu().numpy(), count)

    def _sent(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        for first in range(0, self._matrix.count, self._rows):
            halves, scales = self._matrix.halves(slice(first, first + self._rows))
            yield first, torch.from_numpy(halves).to(self._device), torch.from_numpy(scales).to(self._device)


class FaissFlat:
    """faiss-gpu's flat index in half precision, for what it can answer; longer answers are torch's."""

    def __init__(self, faiss: Any, matrix: HalfMatrix) -> None:
        self._matrix = matrix
        self._resources = faiss.StandardGpuResources()
        settings = faiss.GpuIndexFlatConfig()
        settings.useFloat16 = True
        self._index = faiss.GpuIndexFlatIP(self._resources, matrix.dim, settings)
        unit = matrix.scales.max()  # float16 holds no number above 65504
        for _, block in matrix.blocks():
            self._index.add(block / unit)

    def candidates(self, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """int64[Q, count], best first, for queries float32[Q, D]."""
        if count > MOST_OF_FAISS:
            return TorchFlat(self._matrix, torch.device("cuda"), kept=False).candidates(queries, count)
        largest = np.abs(queries).max(axis=1, keepdims=True)
        _, rows = self._index.search(queries / np.where(largest > 0, largest, 1), count)
        return np.asarray(rows, np.int64)


def _flat_on_gpu(matrix: HalfMatrix, *, fits: bool) -> Proposer:
    faiss = _faiss_with_gpu() if fits else None
    return TorchFlat(matrix, torch.device("cuda"), kept=fits) if faiss is None else FaissFlat(faiss, matrix)


def _faiss_with_gpu() -> Any:
    try:
        import faiss
    except ImportError:
        return None
    return faiss if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0 else None


def _block_rows(dim: int, device: torch.device) -> int:
    room = BLOCK_BYTES
    if device.type == "cuda":
        room = min(room, torch.cuda.mem_get_info(device)[0] // 8)
    return max(1, room // (4 * dim))


def _wide(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.pad(rows, ((0, 0), (0, count - rows.shape[1])), constant_values=-1)
