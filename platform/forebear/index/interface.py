"""What every index can do, whether it is one folder, many, or many on other machines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forebear.index.description import IndexDescription

Device = Literal["auto", "cpu", "cuda"]
"""Where exact search runs: `auto` is the GPU where there is one with room for the vectors."""


@dataclass(frozen=True)
class SearchResult:
    """The best rows for Q queries, best first; equal scores go by rising row."""

    rows: NDArray[np.int64]
    """int64[Q, k]."""
    scores: NDArray[np.float32]
    """float32[Q, k], exact inner products with the stored vectors; rising when opponents were asked for."""


class SearchIndex(Protocol):
    """Vectors float32[N, D] and the search over them. Row i is sample i of the training set."""

    @property
    def folder(self) -> Path:
        """Where it lies."""

    @property
    def description(self) -> IndexDescription:
        """What it was built from, and how well it finds."""

    @property
    def ids(self) -> Sequence[str]:
        """The sample id of every row."""

    @property
    def parts(self) -> int:
        """How many indexes it is made of."""

    @property
    def dim(self) -> int:
        """Numbers in a vector."""

    def __len__(self) -> int: ...

    def verify(self) -> None:
        """Hash every file again; raises SearchIndexError that names a damaged one."""

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        opponents: bool = False,
        allow: ArrayLike | None = None,
        deny: ArrayLike | None = None,
    ) -> SearchResult:
        """The k rows with the highest scores for each of queries float32[Q, D], or the lowest when `opponents`.

        Only rows of `allow` (None: of all) that `deny` does not name, int[M] each, are answered; k is cut to their
        number. Exact when the index is, and when few rows are allowed; otherwise candidates are proposed and their
        scores and order are exact. Raises SearchIndexError when a query is not finite or not of the index's dimension,
        or a list names a row that is not there.
        """

    def scores(self, queries: ArrayLike) -> NDArray[np.float32]:
        """float32[Q, N]: exact scores of queries float32[Q, D] with every row, for percentiles and group totals."""

    def vectors(self, rows: ArrayLike) -> NDArray[np.float32]:
        """float32[M, D]: the stored vectors of rows int[M]."""
