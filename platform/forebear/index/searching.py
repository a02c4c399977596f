"""Search: the rows of an index whose inner product with a query is highest, or lowest."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from forebear.config import parse
from forebear.errors import ForebearError, SearchIndexError
from forebear.files import read_json, sha256_of_file
from forebear.index.codes import CODE_FILES, Codes
from forebear.index.description import FORMAT_VERSION, IndexDescription
from forebear.index.matrix import SCALES_FILE, VECTORS_FILE, HalfMatrix
from forebear.index.ranking import rank

DESCRIPTION_FILE = "index.json"
IDS_FILE = "ids.parquet"
OLD = ".old"


@dataclass(frozen=True)
class SearchResult:
    """The best rows for Q queries, best first; equal scores go by rising row."""

    rows: NDArray[np.int64]
    """int64[Q, k]."""
    scores: NDArray[np.float32]
    """float32[Q, k], exact inner products with the stored vectors; rising when opponents were asked for."""


class VectorIndex:
    """Vectors float32[N, D] on disk and the search over them. Row i is sample i of the training set."""

    ids: tuple[str, ...]
    """The sample id of every row."""

    def __init__(
        self,
        folder: Path,
        description: IndexDescription,
        ids: tuple[str, ...],
        matrix: HalfMatrix,
        codes: Codes | None,
    ) -> None:
        self.folder = folder
        self.description = description
        self.ids = ids
        self._matrix = matrix
        self._codes = codes

    @classmethod
    def open(cls, folder: Path, plan_hash: str | None = None, *, allow_low_recall: bool = False) -> "VectorIndex":
        """Open an index. Vectors are mapped, so opening is quick and processes share the memory.

        An index that is replaced while it is open goes on answering as before. Raises SearchIndexError when the index
        is missing, incomplete or foreign, was built from a store with another plan than `plan_hash`, or has a measured
        recall below its floor and `allow_low_recall` is not set.
        """
        found = _whole(folder)
        description = _read_description(found, rebuild(folder))
        built_from = description.metadata.store_plan_hash
        if plan_hash not in (None, built_from):
            raise SearchIndexError(
                f"the index in {folder} was built from another store (plan {built_from}, wanted {plan_hash}); "
                f"{rebuild(folder)}"
            )
        recall, floor = description.recall.lowest, description.config.recall_floor
        if recall < floor and not allow_low_recall:
            raise SearchIndexError(
                f"the index in {folder} finds {recall:.1%} of the true best, its floor is {floor:.1%}; raise "
                f"refine_factor or choose kind: exact and {rebuild(folder)}, or allow it with --allow-low-recall"
            )
        ids = _read_ids(found / IDS_FILE, description.count, rebuild(folder))
        codes = None
        if description.kind == "rabitq":
            for name in CODE_FILES:  # hashed first, because FAISS trusts the sizes that a file claims
                _check_hash(found, name, description, rebuild(folder))
            codes = Codes(found)
        return cls(found, description, ids, HalfMatrix(found, description.count, description.dim), codes)

    def __len__(self) -> int:
        return self.description.count

    @property
    def dim(self) -> int:
        return self.description.dim

    def verify(self) -> None:
        """Hash every file again; raises SearchIndexError that names a damaged one."""
        for name in self.description.files:
            _check_hash(self.folder, name, self.description, rebuild(self.folder))

    def search(self, queries: ArrayLike, k: int, *, opponents: bool = False) -> SearchResult:
        """The k rows with the highest scores for each of queries float32[Q, D], or the lowest when `opponents`.

        Exact when the index is; otherwise the candidates are FAISS's and their scores and order are exact. k is cut
        to N. Raises SearchIndexError when a query is not finite or not of the index's dimension.
        """
        checked = self._checked(queries)
        if k < 1:
            raise SearchIndexError(f"k is {k}; ask for at least 1 row")
        k = min(k, len(self))
        sign = np.float32(-1 if opponents else 1)
        found = rank(self._matrix, self._codes, sign * checked, k, self.description.config.candidates(k))
        rows, scores = np.empty((len(checked), k), np.int64), np.empty((len(checked), k), np.float32)
        for query, (best, best_scores) in enumerate(found):
            rows[query], scores[query] = best, sign * best_scores
        return SearchResult(rows, scores)

    def scores(self, queries: ArrayLike) -> NDArray[np.float32]:
        """float32[Q, N]: exact scores of queries float32[Q, D] with every row, for percentiles and group totals."""
        return self._matrix.scores(self._checked(queries))

    def vectors(self, rows: ArrayLike) -> NDArray[np.float32]:
        """float32[M, D]: the stored vectors of rows int[M]."""
        wanted = np.asarray(rows, np.int64).reshape(-1)
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if len(outside):
            raise SearchIndexError(f"row {outside[0]} is outside the index, which has rows 0 to {len(self) - 1}")
        return self._matrix.rows(wanted)

    def _checked(self, queries: ArrayLike) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
            checked = np.asarray(queries).astype(np.float32)
        if checked.ndim != 2 or checked.shape[1] != self.dim:
            raise SearchIndexError(
                f"queries have shape {list(checked.shape)}, the index needs [number of queries, {self.dim}]; "
                "embed the query with the run's own checkpoints and estimator"
            )
        bad = np.flatnonzero(~np.isfinite(checked).all(axis=1))
        if len(bad):
            raise SearchIndexError(f"query {bad[0]} is not finite; check the picture and the checkpoint's weights")
        return checked


def rebuild(folder: Path) -> str:
    """The remedy for an index that cannot be used."""
    return f"run `forebear index --run {folder.parent.parent} --estimator {folder.name.removesuffix(OLD)}`"


def previous(folder: Path) -> Path:
    """Where an index waits while its successor takes its place."""
    return folder.with_name(folder.name + OLD)


def _whole(folder: Path) -> Path:
    """The folder, or its predecessor when a build was killed between the two renames that replace one by the other."""
    return previous(folder) if not folder.exists() and previous(folder).exists() else folder


def _read_description(folder: Path, remedy: str) -> IndexDescription:
    path = folder / DESCRIPTION_FILE
    values = read_json(path, SearchIndexError, remedy)
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        raise SearchIndexError(f"{path} is not an index of format version {FORMAT_VERSION}; {remedy}")
    try:
        description = parse(IndexDescription, values, str(path))
    except ForebearError as invalid:
        raise SearchIndexError(f"{invalid}; {remedy}") from None
    numbers = description.count * description.dim
    needed = dict.fromkeys((IDS_FILE, *(CODE_FILES if description.kind == "rabitq" else ())))
    needed |= {VECTORS_FILE: 2 * numbers, SCALES_FILE: 4 * description.count}
    for name, size in needed.items():
        if name not in description.files or size not in (None, description.files[name].bytes):
            raise SearchIndexError(f"{path} does not list {name} with the size that it must have; {remedy}")
    for name, record in description.files.items():
        file = folder / name
        if not file.is_file():
            raise SearchIndexError(f"{file} is missing; {remedy}")
        if file.stat().st_size != record.bytes:
            raise SearchIndexError(f"{file} has {file.stat().st_size} bytes instead of {record.bytes}; {remedy}")
    return description


def _check_hash(folder: Path, name: str, description: IndexDescription, remedy: str) -> None:
    if sha256_of_file(folder / name) != description.files[name].sha256:
        raise SearchIndexError(f"{folder / name} does not match its checksum; {remedy}")


def _read_ids(path: Path, count: int, remedy: str) -> tuple[str, ...]:
    try:
        ids = tuple(pq.read_table(path, page_checksum_verification=True)["sample_id"].to_pylist())
    except (pa.ArrowException, OSError, KeyError) as broken:
        reason = str(broken).splitlines()[0]
        raise SearchIndexError(f"{path} cannot be read ({reason}); {remedy}") from None
    if len(ids) != count:
        raise SearchIndexError(f"{path} names {len(ids)} of {count} rows; {remedy}")
    return ids
