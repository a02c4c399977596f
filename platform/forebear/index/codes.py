"""Approximate candidates by FAISS: one bit for each number (RaBitQ), scanned with SIMD instructions.

FAISS's `RaBitQfs,Refine(SQfp16)` keeps a float16 copy of the vectors beside the bits and ranks the candidates by it. An
index has that copy already (vectors.f16, with a scale for each row), so only the bits are FAISS's and the refinement is
`ranking`'s: half the disk and memory.

FAISS encodes x - c, c being the mean vector, and estimates <q, x> through |q - c|. That makes its error depend on the
length of q, though the true ranking does not, and grow without bound for short queries and for queries that point away
from the mean, as opponents do. Gradients share a strong mean, so both matter (measured: recall falls from 0.9 to 0.3).
Two remedies, neither of which changes the true ranking:

- a query is stretched until q - c is at right angles to c, where the error is least;
- a query that points away from c is answered by a second set of codes, of x - 2c, whose mean is -c: for every row this
  lowers the score by the same 2<q, c>.

FAISS's fast scan adds one byte for each four numbers and keeps the sum in 16 bits. Above 1,028 numbers the sum can
overflow, and the best rows, whose sums are largest, are lost first (measured at 4096: recall 0.5, whatever the number
of candidates). The bytes are scaled by the table that spans most, so vectors get four more numbers, a table of their
own: 0 in every row, and a, a, -a, -a in the query. They add nothing to any product, and a is just so large that no sum
overflows.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forebear.errors import SearchIndexError
from forebear.files import whole_file
from forebear.index.libraries import import_faiss
from forebear.index.matrix import HalfMatrix
from forebear.randomness import keyed_permutation

TOWARDS_FILE = "towards.faiss"
AWAY_FILE = "away.faiss"
CODE_FILES = (TOWARDS_FILE, AWAY_FILE)
"""Codes for queries that point towards the mean vector, and for those that point away from it."""

FACTORY = "RaBitQfs"
TRAINING_NUMBERS = 2**26
"""RaBitQ learns the mean alone: this many numbers (256 MiB) of sampled rows are plenty."""
TABLE = 4
"""Numbers that share one look-up table of FAISS's fast scan."""
LARGEST_SUM = 2**16 - 2**8
"""Largest sum of table entries that is allowed for; 2**16 would be 0 again."""
BALLAST = np.array([1, 1, -1, -1], np.float32)
"""What a query holds, times a, where every row holds 0."""
LONGEST_QUERY = 30.0
"""Longest stretched query, in units of sqrt(D); the largest number of all rows is 1. Beyond, float32 rounding shows."""


class Codes:
    """One-bit codes of N vectors. FAISS uses as many threads as `faiss.omp_set_num_threads` or OMP_NUM_THREADS say."""

    def __init__(self, folder: Path) -> None:
        faiss = import_faiss()
        self._codes = [read_codes(folder / name) for name in CODE_FILES]
        self._centers = [
            np.asarray(faiss.vector_to_array(codes.center), np.float32) for codes in self._codes
        ]  # [D + pad]

    def candidates(self, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """int64[Q, count]: rows whose estimated inner product with the query is highest, best first.

        -1 where there are fewer.
        """
        stretched, towards = self._stretched(queries)
        rows = np.empty((len(queries), count), np.int64)
        for codes, center, chosen in zip(self._codes, self._centers, (towards, ~towards), strict=True):
            if chosen.any():
                _, rows[chosen] = codes.search(_ballasted(stretched[chosen], center), count)
        return rows

    def _stretched(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Queries float32[Q, D] at the length at which FAISS errs least, and whether each points towards the mean."""
        exact = queries.astype(np.float64)
        lengths = np.linalg.norm(exact, axis=1, keepdims=True)  # [Q, 1]
        unit = exact / np.where(lengths > 0, lengths, 1)
        mean = self._centers[0][: queries.shape[1]].astype(np.float64)  # [D]
        along = unit @ mean / max(float(mean @ mean), np.finfo(np.float64).tiny)  # [Q]
        longest = LONGEST_QUERY * np.sqrt(len(mean))
        stretch = 1 / np.maximum(np.abs(along), 1 / longest)  # (stretch * unit - c) at right angles to c
        return (unit * stretch[:, None]).astype(np.float32), along >= 0


def write_codes(folder: Path, matrix: HalfMatrix) -> Codes:
    """Encode every row of the matrix and write the FAISS files of `folder`; the same rows give the same bytes."""
    faiss = import_faiss()
    sampled = keyed_permutation(matrix.count, "codes")[: max(1, TRAINING_NUMBERS // matrix.dim)]
    unit = matrix.scales.max()  # the largest number of all: divided by it, none overflows or vanishes inside FAISS
    training = _padded(matrix.rows(np.sort(sampled)) / unit)
    mean: NDArray[np.float32] = np.zeros(training.shape[1], np.float32)
    for name in CODE_FILES:
        codes = _empty_codes(faiss, training.shape[1])
        codes.train(training - 2 * mean)
        for _, block in matrix.blocks():
            codes.add(_padded(block / unit) - 2 * mean)
        mean = np.asarray(faiss.vector_to_array(codes.center), np.float32)
        with whole_file(folder / name) as part:
            faiss.write_index(codes, str(part))
    return Codes(folder)


def _padded(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[N, D] with zeros up to whole tables, and one table of zeros more."""
    dim = vectors.shape[1]
    return np.pad(vectors, ((0, 0), (0, -dim % TABLE + TABLE)))


def _ballasted(queries: NDArray[np.float32], center: NDArray[np.float32]) -> NDArray[np.float32]:
    """Queries float32[Q, D], padded, with so much in the last table that no sum of FAISS's table entries overflows.

    A table spans the sum of its magnitudes of q - c. FAISS rounds q - c to 256 steps and the tables to bytes, the
    widest to 255: sums reach 255 * (sum of spans / widest span), and the roundings half a step for each number and
    table.
    """
    padded = _padded(queries)
    magnitudes = np.abs(padded - center)  # [Q, D + pad]
    tables = len(center) // TABLE
    room = max(LARGEST_SUM - 255 - tables / 2, 255)
    spans = magnitudes.sum(axis=1)  # [Q]
    reach = np.maximum(magnitudes.max(axis=1), spans * 255 / room / TABLE)
    widest = (spans + len(center) * reach / 255) * 255 / room
    padded[:, -TABLE:] = (widest / TABLE)[:, None] * BALLAST
    return padded


def _empty_codes(faiss: Any, dim: int) -> Any:
    try:
        return faiss.index_factory(dim, FACTORY, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError:
        message = f"FAISS {faiss.__version__} has no {FACTORY}; install FAISS 1.13 or later"
        raise SearchIndexError(message) from None


def read_codes(path: Path) -> Any:
    """The FAISS index of a file, its codes mapped; raises SearchIndexError when FAISS cannot read it."""
    faiss = import_faiss()
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as broken:
        reason = str(broken).splitlines()[0]
        raise SearchIndexError(f"{path} cannot be read by FAISS ({reason}); build the index again") from None
