"""An index in parts of consecutive rows, each an index of its own, whose answers are merged into one.

FOLDER/shards.json lists the parts; FOLDER/part-00000, ... hold them. Exact parts give the answers of one exact index,
bit for bit. A part of codes has a mean of its own, so its candidates are its own too, and their scores exact as ever.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, parse
from forebear.errors import ForebearError, SearchIndexError
from forebear.files import read_json, sha256_of_file
from forebear.index.description import (
    FORMAT_VERSION,
    READ_VERSIONS,
    IndexConfig,
    IndexDescription,
    IndexMetadata,
    Recall,
)
from forebear.index.filtering import checked_rows, rows_between
from forebear.index.interface import Device, SearchResult
from forebear.index.ranking import best_rows
from forebear.index.searching import (
    DESCRIPTION_FILE,
    IDS_FILE,
    VectorIndex,
    check_origin,
    check_recall,
    checked_queries,
    checked_search,
    read_description,
    read_ids,
    rebuild,
    whole_folder,
)
from forebear.version import __version__

SHARDS_FILE = "shards.json"


@dataclass(frozen=True, config=STRICT)
class PartRecord:
    """One part of a sharded index."""

    name: str
    """Of its folder."""
    first_row: int
    """Of the store."""
    rows: int
    """In it."""
    sha256: str
    """Of the part's index.json, which holds the checksums of its files."""


@dataclass(frozen=True, config=STRICT)
class ShardsDescription:
    """All of shards.json."""

    metadata: IndexMetadata
    """What it was built from."""
    config: IndexConfig
    """How it was asked for."""
    parts: tuple[PartRecord, ...]
    """In the order of rows."""
    forebear_version: str = __version__
    """The version that built it."""
    format_version: int = FORMAT_VERSION
    """Of shards.json and the parts."""


class PartCaller(Protocol):
    """Where the parts are: in this process, or with actors."""

    def ask(self, calls: Mapping[int, tuple[str, Mapping[str, Any]]]) -> dict[int, Any]:
        """Call, of each part by number, the method of that name with those arguments; what each returned."""

    def close(self) -> None:
        """Let go of the parts."""


class LocalParts:
    """Parts in this process, asked one after the other."""

    def __init__(self, parts: Sequence[VectorIndex]) -> None:
        self._parts = parts

    def ask(self, calls: Mapping[int, tuple[str, Mapping[str, Any]]]) -> dict[int, Any]:
        """As PartCaller says."""
        return {part: getattr(self._parts[part], method)(**given) for part, (method, given) in calls.items()}

    def close(self) -> None:
        """Nothing: maps are let go with the parts."""


class ShardedIndex:
    """The search over all parts, with what VectorIndex answers."""

    def __init__(
        self, folder: Path, description: IndexDescription, firsts: NDArray[np.int64], caller: PartCaller
    ) -> None:
        """`firsts` int64[P + 1]: the first row of each part, and N."""
        self.folder, self.description = folder, description
        self._firsts, self._caller = firsts, caller

    @classmethod
    def open(
        cls,
        folder: Path,
        plan_hash: str | None = None,
        *,
        allow_low_recall: bool = False,
        device: Device = "auto",
        caller: PartCaller | None = None,
    ) -> "ShardedIndex":
        """Open a sharded index, its parts in this process unless a caller is given that has them.

        Raises what VectorIndex.open raises, and SearchIndexError when a part is not the one that was built.
        """
        found = whole_folder(folder)
        shards = read_shards(found, rebuild(folder))
        parts = [_part(found, record, rebuild(folder)) for record in shards.parts]
        description = _whole_description(shards, parts)
        check_origin(folder, description, plan_hash)
        check_recall(folder, description, allow_low_recall=allow_low_recall)
        firsts = np.cumsum([0, *(part.count for part in parts)], dtype=np.int64)
        if [record.first_row for record in shards.parts] != firsts[:-1].tolist():
            raise SearchIndexError(f"the parts of {folder} do not follow on each other; {rebuild(folder)}")
        if caller is None:
            places = [found / record.name for record in shards.parts]
            caller = LocalParts([VectorIndex.open(place, allow_low_recall=True, device=device) for place in places])
        return cls(found, description, firsts, caller)

    @cached_property
    def ids(self) -> Sequence[str]:
        """The sample id of every row."""
        names = [record.name for record in read_shards(self.folder, rebuild(self.folder)).parts]
        counts = np.diff(self._firsts).tolist()
        return tuple(
            sample_id
            for name, count in zip(names, counts, strict=True)
            for sample_id in read_ids(self.folder / name / IDS_FILE, count, rebuild(self.folder))
        )

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.description.dim

    @property
    def parts(self) -> int:
        """How many there are."""
        return len(self._firsts) - 1

    def __len__(self) -> int:
        return self.description.count

    def close(self) -> None:
        """Let go of the parts, which ends actors."""
        self._caller.close()

    def verify(self) -> None:
        """Hash every file again; raises SearchIndexError that names a damaged one."""
        self._caller.ask({part: ("verify", {}) for part in range(self.parts)})

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
        calls: dict[int, tuple[str, Mapping[str, Any]]] = {}
        for part in range(self.parts):
            here = rows_between(allowed, *self._firsts[part : part + 2].tolist())
            if here is None or len(here):
                calls[part] = ("search", {"queries": checked, "k": k, "opponents": opponents, "allow": here})
        if not calls:
            return SearchResult(np.empty((len(checked), 0), np.int64), np.empty((len(checked), 0), np.float32))
        answers = self._caller.ask(calls)
        rows = np.concatenate([answers[part].rows + self._firsts[part] for part in sorted(answers)], axis=1)
        scores = np.concatenate([answers[part].scores for part in sorted(answers)], axis=1)
        return _merged(rows, scores, k, opponents=opponents)

    def scores(self, queries: ArrayLike) -> NDArray[np.float32]:
        """As SearchIndex says."""
        checked = checked_queries(queries, self.dim)
        answers = self._caller.ask({part: ("scores", {"queries": checked}) for part in range(self.parts)})
        return np.concatenate([answers[part] for part in range(self.parts)], axis=1)

    def vectors(self, rows: ArrayLike) -> NDArray[np.float32]:
        """As SearchIndex says."""
        wanted = checked_rows(rows, len(self))
        owners = np.searchsorted(self._firsts, wanted, side="right") - 1
        calls = {
            int(part): ("vectors", {"rows": wanted[owners == part] - self._firsts[part]}) for part in np.unique(owners)
        }
        vectors = np.empty((len(wanted), self.dim), np.float32)
        for part, answer in self._caller.ask(calls).items():
            vectors[owners == part] = answer
        return vectors


def is_sharded(folder: Path) -> bool:
    """Whether the index in a folder is one of parts."""
    return (whole_folder(folder) / SHARDS_FILE).exists()


def read_shards(folder: Path, remedy: str) -> ShardsDescription:
    """shards.json of a folder; raises SearchIndexError when it is not that."""
    path = folder / SHARDS_FILE
    values = read_json(path, SearchIndexError, remedy)
    version = values.get("format_version") if isinstance(values, dict) else None
    if version not in READ_VERSIONS:
        raise SearchIndexError(f"{path} is not an index of format version {FORMAT_VERSION} but {version}; {remedy}")
    try:
        shards = parse(ShardsDescription, values, str(path))
    except ForebearError as invalid:
        raise SearchIndexError(f"{invalid}; {remedy}") from None
    if not shards.parts:
        raise SearchIndexError(f"{path} lists no part; {remedy}")
    return shards


def _part(folder: Path, record: PartRecord, remedy: str) -> IndexDescription:
    place = folder / record.name
    description = read_description(place, remedy)
    if sha256_of_file(place / DESCRIPTION_FILE) != record.sha256 or description.count != record.rows:
        raise SearchIndexError(f"{place} is not the part that {SHARDS_FILE} lists; {remedy}")
    return description


def _whole_description(shards: ShardsDescription, parts: Sequence[IndexDescription]) -> IndexDescription:
    """As if it were one index; its recall is, number by number, that of the part that finds least."""
    first = parts[0]
    lowest = {
        name: min(getattr(part.recall, name) for part in parts)
        for name in ("at_10", "at_100", "opponents_at_10", "opponents_at_100")
    }
    recall = Recall(
        **lowest,
        queries=sum(part.recall.queries for part in parts),
        note=first.recall.note if len(parts) == 1 else f"lowest of {len(parts)} parts: {first.recall.note}",
    )
    count = sum(part.count for part in parts)
    approximate = [part for part in parts if part.kind == "rabitq"]
    return replace(
        first,
        metadata=shards.metadata,
        config=shards.config,
        kind=approximate[0].kind if approximate else "exact",
        count=count,
        recall=recall,
        files={},
        shortlist_width=0,  # each part has its own
        source="",
    )


def _merged(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int, *, opponents: bool) -> SearchResult:
    """The k best of each line of rows and scores [Q, M]; equal scores go by rising row."""
    best_of_all = np.empty((len(rows), k), np.int64)
    best_scores = np.empty((len(rows), k), np.float32)
    for query in range(len(rows)):
        by_row = np.argsort(rows[query])
        found = scores[query, by_row]
        best = best_rows(-found if opponents else found, k)
        best_of_all[query], best_scores[query] = rows[query, by_row][best], found[best]
    return SearchResult(best_of_all, best_scores)
