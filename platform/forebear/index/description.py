"""What index.json says: how an index was configured, what it was built from, and how well it finds."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT
from forebear.store import SIGN
from forebear.version import __version__

FORMAT_VERSION = 5
"""5: directions of short codes are bytes. 4: the bytes of rows have a file of their own. 3: codes may be short ones. 2:
codes hold a table that keeps FAISS's sums from overflowing."""
READ_VERSIONS = (2, 3, 4, FORMAT_VERSION)
"""Read as they are, but for short codes of versions 3 and 4; of version 1 exact indexes are too."""
RANKED = 5
"""Short codes rank rows by a byte for each number, so that this many times fewer need an exact score."""
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class IndexConfig:
    """How an index searches."""

    kind: Literal["auto", "exact", "rabitq"] = "auto"
    """`exact` compares with every vector; `rabitq` ranks candidates of FAISS exactly; `auto` goes by size."""
    exact_limit: Count = 100_000
    """Most vectors for which `auto` is exact."""
    refine_factor: Count = 10
    """Candidates for each answer asked for (`rabitq`)."""
    min_candidates: Count = 1000
    """Fewest candidates: for short answers they cost next to nothing."""
    short_codes_from: Count = 10_000
    """Fewest vectors for which short codes are tried (`rabitq`)."""
    short_factor: Count = 6
    """Rows that short codes propose for each that is scored exactly; twice as many where these find too little."""
    short_recall: Share = 0.99
    """Short codes are kept when the measured recall with them is at least this (`rabitq`)."""
    recall_queries: Count = 64
    """Vectors of the index that are searched for to measure recall (`rabitq`)."""
    recall_floor: Share = 0.95
    """An index whose measured recall is below this is not opened unless low recall is allowed."""

    def candidates(self, k: int) -> int:
        """How many candidates are ranked exactly for an answer of k rows (`rabitq`)."""
        return max(self.refine_factor * k, self.min_candidates)

    def short_candidates(self, k: int) -> int:
        """How many they are where short codes have ranked more of them (`rabitq`)."""
        return max(k, self.candidates(k) // RANKED)


@dataclass(frozen=True, config=STRICT)
class WeightedCheckpoint:
    """A checkpoint whose embeddings are concatenated into the index's vectors, times the square root of its weight."""

    name: str
    """Of the checkpoint."""
    weight: float
    """w_c."""


@dataclass(frozen=True, config=STRICT)
class IndexMetadata:
    """What an index was built from."""

    estimator: str
    """The first of those that share the index."""
    store_plan_hash: str
    """Of the store, all segments together."""
    checkpoints: tuple[WeightedCheckpoint, ...]
    """In the order of concatenation."""
    sign: str = SIGN
    """What a positive score means."""


@dataclass(frozen=True, config=STRICT)
class Recall:
    """Share of the true best 10 and 100 that a search returns (of all there are, when the index holds fewer)."""

    at_10: Share
    """Of proponents."""
    at_100: Share
    """Of proponents."""
    opponents_at_10: Share
    """Of opponents."""
    opponents_at_100: Share
    """Of opponents."""
    queries: int
    """Vectors of the index that were searched for."""
    note: str
    """How it was measured."""

    @property
    def lowest(self) -> float:
        return min(self.at_10, self.at_100, self.opponents_at_10, self.opponents_at_100)


@dataclass(frozen=True, config=STRICT)
class FileRecord:
    """Size and checksum of one file of an index."""

    bytes: int
    """Its size."""
    sha256: str
    """Its checksum."""


@dataclass(frozen=True, config=STRICT)
class IndexDescription:
    """All of index.json. Nothing in it depends on time or machine: the same vectors give the same file."""

    metadata: IndexMetadata
    """What it was built from."""
    config: IndexConfig
    """How it was asked for."""
    kind: Literal["exact", "rabitq"]
    """What `config.kind` came to."""
    count: Count
    """Vectors."""
    dim: Count
    """Numbers in a vector: checkpoints x k."""
    recall: Recall
    """Measured when it was built; 1 for an exact one."""
    files: dict[str, FileRecord]
    """Every file of the index, by name."""
    shortlist_width: int = 0
    """Rows that short codes propose for each candidate; 0: there are none."""
    source: str = ""
    """Of a part of a sharded index: fingerprint of all that decides its bytes."""
    forebear_version: str = __version__
    """The version that built it."""
    format_version: int = FORMAT_VERSION
    """Of index.json and the files."""
