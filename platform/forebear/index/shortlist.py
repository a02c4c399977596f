"""Candidates in two quick steps, for vectors whose products are settled by few of their directions.

A scan of one bit for each of 4,096 numbers takes most of a query's time (`codes`). Embeddings do not use their numbers
evenly: of the products of queries with rows, nearly all that makes them differ lies along the leading principal
directions of the rows. So rows less their mean, which moves all scores of a query alike, are projected on these
directions, and kept twice:

- as four bits for each table, four directions to a table (a product quantiser, scanned with SIMD instructions): the
  scan proposes `width` times as many rows as are wanted;
- as a byte for each direction, which ranks the proposed rows.

Queries and directions are rounded to bytes too: what a single query waits for is memory, and this loses nothing that
could be seen beside what four bits lose (`integers`). Exact scores of the few that are left decide, as ever
(`ranking`). Nothing depends on the length of a query or on the side to which it points, so proponents and opponents
share the codes.

A direction that new queries use and few rows do is lost here. An index is therefore measured with rows from which
nothing was learnt (`recall.sample`), and one that would find too little keeps `codes`.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from forebear.files import whole_file
from forebear.index.codes import TRAINING_NUMBERS, read_codes
from forebear.index.integers import ByteRows, rounded
from forebear.index.libraries import import_faiss
from forebear.index.matrix import HalfMatrix
from forebear.index.ranking import best_rows
from forebear.randomness import keyed_normal, keyed_permutation

SHORTLIST_FILE = "shortlist.faiss"
"""Tables, and four bits of every row for each."""
DIRECTIONS_FILE = "directions.i8"
"""A byte for each number of each direction."""
BYTES_FILE = "shortlist.i8"
"""A byte of every row for each direction."""
STEPS_FILE = "shortlist.f32"
"""For each direction, what one more in its own bytes stands for, and then what one more in those of rows does."""
READ_FILES = (SHORTLIST_FILE, DIRECTIONS_FILE, STEPS_FILE)
"""Those on which every answer depends."""
SHORTLIST_FILES = (*READ_FILES, BYTES_FILE)

DIRECTIONS = 1024
"""Most directions."""
TABLES = 256
"""Most tables of four bits; FAISS can add up the bytes of 257 in 16 bits."""
LEAST_PER_TABLE = 4
"""Fewest directions that share a table: one bit for each."""
CENTROIDS = 16
"""Of a table of four bits."""
TRAINING_ROWS = 2**13
"""Most rows from which directions and tables are learnt."""
SPARE_DIRECTIONS = 32
"""Searched for beside those that are kept, so that the last of these are good too."""
PASSES = 3
"""Of the search for the leading directions: each multiplies what is wanted by its variance once more."""


def bytes_each(dim: int) -> int:
    """Of a row of `dim` numbers: four bits for each table, a byte for each direction."""
    _, tables = _sizes(dim)
    return -(-tables // 2) + directions_of(dim)


def sizes_of(count: int, dim: int) -> dict[str, int]:
    """Bytes of those files whose size follows from `count` rows of `dim` numbers, by name."""
    size = directions_of(dim)
    return {DIRECTIONS_FILE: size * dim, BYTES_FILE: size * count, STEPS_FILE: 8 * size}


def directions_of(dim: int) -> int:
    """Bytes of a row of `dim` numbers: of each direction, those that make up for unequal tables among them."""
    size, tables = _sizes(dim)
    return size + -size % tables


class Shortlist:
    """Short codes of N vectors. FAISS uses as many threads as `faiss.omp_set_num_threads` or OMP_NUM_THREADS say."""

    def __init__(self, folder: Path, count: int, dim: int, width: int) -> None:
        """Of `count` rows of `dim` numbers; `width`: rows that the scan proposes for each candidate."""
        self._tables = read_codes(folder / SHORTLIST_FILE)
        size = directions_of(dim)
        self._directions = ByteRows(np.fromfile(folder / DIRECTIONS_FILE, np.int8).reshape(size, dim))
        steps: NDArray[np.float32] = np.fromfile(folder / STEPS_FILE, "<f4").astype(np.float32)
        self._direction_steps, self._steps = steps.reshape(2, size)
        self._bytes = ByteRows(np.asarray(np.memmap(folder / BYTES_FILE, np.int8, "r", shape=(count, size))))
        self._width = width

    def candidates(self, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """int64[Q, count]: rows whose estimated inner product with the query is highest, best first.

        -1 where there are fewer.
        """
        asked, _ = rounded(queries)
        projected = (self._directions.products(asked) * self._direction_steps).astype(np.float32)  # [Q, m]
        asked, _ = rounded(projected * self._steps)
        _, proposed = self._tables.search(projected, count * self._width)
        chosen = np.full((len(queries), count), -1, np.int64)
        for query, found, best in zip(asked, proposed, chosen, strict=True):
            rows = np.sort(found[found >= 0])  # neighbours in the file are read together
            ranked = rows[best_rows(self._bytes.products_with(query, rows), count)]
            best[: len(ranked)] = ranked
        return chosen


def write_shortlist(folder: Path, matrix: HalfMatrix, apart: NDArray[np.int64]) -> None:
    """Encode every row of the matrix and write the files of `folder`.

    Nothing is learnt from the rows `apart` int64[M], where there are others. The same rows give the same bytes, with
    the same number of threads.
    """
    faiss = import_faiss()
    unit = matrix.scales.max()  # the largest number of all: divided by it, none overflows or vanishes
    training = matrix.rows(_learnt_from(matrix, apart)) / unit  # [n, D]
    mean = training.mean(axis=0)
    found, tables = _leading_directions(training - mean)
    whole, own = rounded(found)
    directions = whole * own[:, None]  # [m, D]: those along which queries are projected too
    scanned = faiss.IndexPQFastScan(len(directions), tables, 4, faiss.METRIC_INNER_PRODUCT)
    scanned.pq.cp.min_points_per_centroid = 1  # few rows are no reason to warn: recall is measured
    projected = (training - mean) @ directions.T  # [n, m]
    scanned.train(projected)
    least = projected.min(axis=0)  # [m]
    steps = (projected.max(axis=0) - least) / np.float32(255)
    steps[steps == 0] = 1
    with whole_file(folder / BYTES_FILE) as part, part.open("wb") as file:
        for _, block in matrix.blocks():
            turned = (block / unit - mean) @ directions.T
            scanned.add(turned)
            (np.clip(np.rint((turned - least) / steps), 0, 255) - 128).astype(np.int8).tofile(file)
    with whole_file(folder / DIRECTIONS_FILE) as part:
        whole.tofile(part)
    with whole_file(folder / STEPS_FILE) as part:
        np.stack([own, steps]).astype("<f4").tofile(part)
    with whole_file(folder / SHORTLIST_FILE) as part:
        faiss.write_index(scanned, str(part))


def _learnt_from(matrix: HalfMatrix, apart: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows int64[n], rising; repeated where there are fewer than a table has centroids."""
    most = max(CENTROIDS, min(TRAINING_ROWS, TRAINING_NUMBERS // matrix.dim))
    order = keyed_permutation(matrix.count, "shortlist")
    others = order[~np.isin(order, apart)]
    chosen = np.sort((others if len(others) else order)[:most])
    return np.resize(chosen, max(CENTROIDS, len(chosen)))


def _sizes(dim: int) -> tuple[int, int]:
    """Directions, and tables, of vectors of `dim` numbers."""
    size = min(DIRECTIONS, dim)
    return size, min(TABLES, -(-size // LEAST_PER_TABLE))


def _leading_directions(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """The leading principal directions float32[m, D], orthonormal, of centred rows float32[n, D], and m's tables.

    Found by subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4). Where tables share no equal number of
    directions, directions of zeros make up for it.
    """
    dim = rows.shape[1]
    size, tables = _sizes(dim)
    centred = torch.from_numpy(rows)
    basis = torch.from_numpy(keyed_normal((dim, min(dim, size + SPARE_DIRECTIONS)), "directions"))
    for _ in range(PASSES):
        basis, _ = torch.linalg.qr(centred.T @ (centred @ basis))  # [D, m + spare]
    inside = centred @ basis  # [n, m + spare]
    variances, turned = torch.linalg.eigh(inside.T @ inside)  # rising
    missing = -size % tables
    leading = np.pad((basis @ turned).flip(1)[:, :size].T.numpy(), ((0, missing), (0, 0)))  # [m, D]
    return leading[_balanced(np.pad(variances.flip(0)[:size].numpy(), (0, missing)), tables)], tables


def _balanced(variances: NDArray[np.float32], tables: int) -> NDArray[np.int64]:
    """An order int64[m] of directions, whose variances fall, in which all tables have about the same product of them.

    So four bits err least (Ge et al. 2013, eigenvalue allocation). Each direction in turn goes to the table whose
    product is least and that has room.
    """
    sizes = variances.astype(np.float64)
    logs = np.log(np.maximum(sizes, sizes.max() * 1e-12 + np.finfo(np.float64).tiny))
    logs -= logs.min()  # so that one more never makes a product smaller
    products, members = np.zeros(tables), np.empty((tables, len(sizes) // tables), np.int64)
    filled = np.zeros(tables, np.int64)
    for number, log in enumerate(logs.tolist()):
        table = int(np.argmin(products))
        members[table, filled[table]] = number
        filled[table] += 1
        products[table] = np.inf if filled[table] == members.shape[1] else products[table] + log
    return members.reshape(-1)
