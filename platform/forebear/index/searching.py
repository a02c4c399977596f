"""Search: the rows of an index whose inner product with a query is highest, or lowest."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from forebear.config import parse
from forebear.errors import ForebearError, SearchIndexError
from forebear.files import read_json, sha256_of_file
from forebear.index.codes import CODE_FILES, Codes
from forebear.index.description import FORMAT_VERSION, READ_VERSIONS, IndexDescription
from forebear.index.devices import proposer_on
from forebear.index.filtering import allowed_rows, checked_rows
from forebear.index.interface import Device, SearchIndex, SearchResult
from forebear.index.matrix import SCALES_FILE, VECTORS_FILE, HalfMatrix
from forebear.index.ranking import Proposer, rank
from forebear.index.shortlist import READ_FILES, SHORTLIST_FILES, Shortlist, sizes_of

DESCRIPTION_FILE = "index.json"
IDS_FILE = "ids.parquet"
OLD = ".old"
PART = "part-"
"""How the name of a part of a sharded index begins."""
ROUNDED = 64
"""Rows beyond k that are scored exactly when another device chose them by scores that round differently."""


class VectorIndex:
    """Vectors float32[N, D] in one folder and the search over them. Row i is sample i of the training set."""

    ids: Sequence[str]
    """The sample id of every row."""

    def __init__(
        self,
        folder: Path,
        description: IndexDescription,
        ids: Sequence[str],
        matrix: HalfMatrix,
        proposer: Proposer | None,
    ) -> None:
        self.folder = folder
        self.description = description
        self.ids = ids
        self._matrix = matrix
        self._proposer = proposer

    @classmethod
    def open(
        cls,
        folder: Path,
        plan_hash: str | None = None,
        *,
        allow_low_recall: bool = False,
        device: Device = "auto",
    ) -> "VectorIndex":
        """Open an index. Vectors are mapped, so opening is quick and processes share the memory.

        `device` is where an exact index searches; codes are searched by the CPU. An index that is replaced while it is
        open goes on answering as before. Raises SearchIndexError when the index is missing, incomplete or foreign, was
        built from a store with another plan than `plan_hash`, or has a measured recall below its floor and
        `allow_low_recall` is not set.
        """
        found = whole_folder(folder)
        description = read_description(found, rebuild(folder))
        check_origin(folder, description, plan_hash)
        check_recall(folder, description, allow_low_recall=allow_low_recall)
        ids = read_ids(found / IDS_FILE, description.count, rebuild(folder))
        matrix = HalfMatrix(found, description.count, description.dim)
        if description.kind == "rabitq":
            width = description.shortlist_width
            for name in READ_FILES if width else CODE_FILES:
                # FAISS trusts the sizes that a file claims, and nobody would notice rows that are no longer found.
                _check_hash(found, name, description, rebuild(folder))
            codes = Shortlist(found, description.count, description.dim, width) if width else Codes(found)
            return cls(found, description, ids, matrix, codes)
        return cls(found, description, ids, matrix, proposer_on(device, matrix))

    def __len__(self) -> int:
        return self.description.count

    @property
    def parts(self) -> int:
        """One."""
        return 1

    @property
    def dim(self) -> int:
        return self.description.dim

    def verify(self) -> None:
        """Hash every file again; raises SearchIndexError that names a damaged one."""
        for name in self.description.files:
            _check_hash(self.folder, name, self.description, rebuild(self.folder))

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        opponents: bool = False,
        allow: ArrayLike | None = None,
        deny: ArrayLike | None = None,
    ) -> SearchResult:
        """As SearchIndex says."""
        checked, allowed, k = checked_search(self, queries, k, allow, deny)
        rows, scores = np.empty((len(checked), k), np.int64), np.empty((len(checked), k), np.float32)
        if k == 0:
            return SearchResult(rows, scores)
        sign = np.float32(-1 if opponents else 1)
        found = rank(self._matrix, self._proposer, sign * checked, k, self._candidates(k), allowed)
        for query, (best, best_scores) in enumerate(found):
            rows[query], scores[query] = best, sign * best_scores
        return SearchResult(rows, scores)

    def _candidates(self, k: int) -> int:
        """A device that computes all scores errs in their last digits alone."""
        if self.description.kind == "exact":
            return k + ROUNDED
        config = self.description.config
        return config.short_candidates(k) if self.description.shortlist_width else config.candidates(k)

    def scores(self, queries: ArrayLike) -> NDArray[np.float32]:
        """float32[Q, N]: exact scores of queries float32[Q, D] with every row, for percentiles and group totals."""
        return self._matrix.scores(checked_queries(queries, self.dim))

    def vectors(self, rows: ArrayLike) -> NDArray[np.float32]:
        """float32[M, D]: the stored vectors of rows int[M]."""
        return self._matrix.rows(checked_rows(rows, len(self)))


def checked_search(
    index: SearchIndex, queries: ArrayLike, k: int, allow: ArrayLike | None, deny: ArrayLike | None
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None, int]:
    """Queries float32[Q, D], the rows that may be answered (None: all), and k cut to their number.

    Raises SearchIndexError as `SearchIndex.search` does, and when no row is asked for.
    """
    checked = checked_queries(queries, index.dim)
    allowed = allowed_rows(len(index), allow, deny)
    if k < 1:
        raise SearchIndexError(f"k is {k}; ask for at least 1 row")
    return checked, allowed, min(k, len(index) if allowed is None else len(allowed))


def checked_queries(queries: ArrayLike, dim: int) -> NDArray[np.float32]:
    """float32[Q, D]; raises SearchIndexError when they are of another shape or not finite."""
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
        checked = np.asarray(queries).astype(np.float32)
    if checked.ndim != 2 or checked.shape[1] != dim:
        raise SearchIndexError(
            f"queries have shape {list(checked.shape)}, the index needs [number of queries, {dim}]; "
            "embed the query with the run's own checkpoints and estimator"
        )
    finite = np.isfinite(checked)
    if not finite.all():
        bad = np.argmin(finite.all(axis=1))
        raise SearchIndexError(f"query {bad} is not finite; check the picture and the checkpoint's weights")
    return checked


def check_origin(folder: Path, description: IndexDescription, plan_hash: str | None) -> None:
    """Raises SearchIndexError when the index was built from a store with another plan; None is any."""
    built_from = description.metadata.store_plan_hash
    if plan_hash not in (None, built_from):
        raise SearchIndexError(
            f"the index in {folder} was built from another store (plan {built_from}, wanted {plan_hash}); "
            f"{rebuild(folder)}"
        )


def check_recall(folder: Path, description: IndexDescription, *, allow_low_recall: bool = False) -> None:
    """Raises SearchIndexError when the measured recall is below the index's floor and that is not allowed."""
    recall, floor = description.recall.lowest, description.config.recall_floor
    if recall < floor and not allow_low_recall:
        raise SearchIndexError(
            f"the index in {folder} finds {recall:.1%} of the true best, its floor is {floor:.1%}; "
            f"{rebuild(folder)} with a higher --refine-factor or --kind exact, or allow it with --allow-low-recall"
        )


def rebuild(folder: Path) -> str:
    """The remedy for an index, or a part of one, that cannot be used."""
    if folder.name.startswith(PART):
        folder = folder.parent
    return f"run `forebear index --run {folder.parent.parent} --estimator {folder.name.removesuffix(OLD)}`"


def previous(folder: Path) -> Path:
    """Where an index waits while its successor takes its place."""
    return folder.with_name(folder.name + OLD)


def whole_folder(folder: Path) -> Path:
    """The folder, or its predecessor when a build was killed between the two renames that replace one by the other."""
    return previous(folder) if not folder.exists() and previous(folder).exists() else folder


def read_description(folder: Path, remedy: str) -> IndexDescription:
    """index.json of a folder; raises SearchIndexError when it or a file that it lists is not there as it must be."""
    path = folder / DESCRIPTION_FILE
    values = read_json(path, SearchIndexError, remedy)
    version = values.get("format_version") if isinstance(values, dict) else None
    if version not in READ_VERSIONS and not (version == 1 and values.get("kind") == "exact"):  # those have not changed
        raise SearchIndexError(f"{path} is not an index of format version {FORMAT_VERSION} but {version}; {remedy}")
    try:
        description = parse(IndexDescription, values, str(path))
    except ForebearError as invalid:
        raise SearchIndexError(f"{invalid}; {remedy}") from None
    numbers = description.count * description.dim
    needed = dict.fromkeys((IDS_FILE, *_code_files(description)))
    needed |= {VECTORS_FILE: 2 * numbers, SCALES_FILE: 4 * description.count}
    if description.shortlist_width:
        needed |= sizes_of(description.count, description.dim)
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


def _code_files(description: IndexDescription) -> tuple[str, ...]:
    if description.kind == "exact":
        return ()
    return SHORTLIST_FILES if description.shortlist_width else CODE_FILES


def _check_hash(folder: Path, name: str, description: IndexDescription, remedy: str) -> None:
    if sha256_of_file(folder / name) != description.files[name].sha256:
        raise SearchIndexError(f"{folder / name} does not match its checksum; {remedy}")


def read_ids(path: Path, count: int, remedy: str) -> tuple[str, ...]:
    """The sample ids of `count` rows; raises SearchIndexError when the file does not hold them."""
    try:
        ids = tuple(pq.read_table(path, page_checksum_verification=True)["sample_id"].to_pylist())
    except (pa.ArrowException, OSError, KeyError) as broken:
        reason = str(broken).splitlines()[0]
        raise SearchIndexError(f"{path} cannot be read ({reason}); {remedy}") from None
    if len(ids) != count:
        raise SearchIndexError(f"{path} names {len(ids)} of {count} rows; {remedy}")
    return ids
