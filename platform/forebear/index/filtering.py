"""Which rows a search may answer with: an allow list, less a deny list."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forebear.errors import SearchIndexError


def allowed_rows(count: int, allow: ArrayLike | None, deny: ArrayLike | None) -> NDArray[np.int64] | None:
    """int64[M], rising and each once: rows of `allow` (all when None) that `deny` does not name; None when all are.

    Raises SearchIndexError when a list names a row outside 0 to count - 1.
    """
    if allow is None and (deny is None or np.size(deny) == 0):
        return None
    mask = np.full(count, allow is None)
    for rows, value in ((allow, True), (deny, False)):
        if rows is not None:
            mask[checked_rows(rows, count)] = value
    return None if mask.all() else np.flatnonzero(mask).astype(np.int64)


def checked_rows(rows: ArrayLike, count: int) -> NDArray[np.int64]:
    """`rows` as int64[M]; raises SearchIndexError when they are not whole numbers or lie outside 0 to count - 1."""
    listed = np.asarray(rows).reshape(-1)
    if listed.size and listed.dtype.kind not in "iu":
        raise SearchIndexError(f"rows are given as {listed.dtype}; give row numbers, such as np.flatnonzero(mask)")
    wanted = listed.astype(np.int64)
    outside = wanted[(wanted < 0) | (wanted >= count)]
    if len(outside):
        raise SearchIndexError(f"row {outside[0]} is outside the index, which has rows 0 to {count - 1}")
    return wanted


def rows_between(rows: NDArray[np.int64] | None, first: int, stop: int) -> NDArray[np.int64] | None:
    """Of rising rows those from `first` to before `stop`, counted from `first`; None stays None."""
    if rows is None:
        return None
    begin, end = np.searchsorted(rows, [first, stop])
    return rows[begin:end] - first
