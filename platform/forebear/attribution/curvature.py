"""The curvatures of a run on disk: one float64 matrix for each vector column and checkpoint.

It is the Gram matrix, N x N, where there are fewer samples than numbers in a vector, and otherwise the second moment.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, parse, plain
from forebear.errors import ForebearError, SearchIndexError
from forebear.estimators import Column, Curvature, GramCurvature, MomentCurvature, gram, second_moment
from forebear.files import read_json, whole_file, write_json
from forebear.run import Run
from forebear.store import Store

DESCRIPTION_FILE = "curvature.json"


@dataclass(frozen=True, config=STRICT)
class CurvatureDescription:
    """What RUN/curvature/COLUMN/curvature.json says; written when every matrix is there."""

    column: str
    """Whose second moment it is."""
    store_plan_hash: str
    """Of the store, all segments together."""
    checkpoints: tuple[str, ...]
    """One matrix, NAME.npy, for each."""
    form: Literal["moment", "gram"]
    """k x k second moment, or N x N Gram matrix where N < k."""
    size: int
    """Of the matrices: k or N."""
    left_out: tuple[str, ...] = ()
    """Ids of the store's samples that had been removed when it was built: those removed since are still part of it."""


def curvature_folder(run: Run, column: Column) -> Path:
    return run.folder / "curvature" / column


def build_curvature(run: Run, store: Store, column: Column) -> None:
    """Write the matrix of a column at every checkpoint; nothing is done when it is there already.

    Takes N x k x min(N, k) multiplications in float64. Matrices of an interrupted build are made again.
    """
    wanted = _wanted(store, column)
    folder = curvature_folder(run, column)
    if _described(folder) == wanted:
        return
    (folder / DESCRIPTION_FILE).unlink(missing_ok=True)
    for name in wanted.checkpoints:
        blocks = partial(store.blocks, name, column)
        matrix = gram(blocks, len(store)) if wanted.form == "gram" else second_moment(blocks(), store.plan.dim)
        with whole_file(folder / f"{name}.npy") as part, part.open("wb") as handle:
            np.save(handle, matrix)
    write_json(folder / DESCRIPTION_FILE, plain(wanted))


def open_curvature(run: Run, store: Store, column: Column, remedy: str) -> tuple[Curvature, ...]:
    """The curvature of each checkpoint, in the store's order; matrices are mapped, not read.

    Raises SearchIndexError with the remedy when they are missing or belong to another store.
    """
    wanted = _held(run, store, column)
    folder = curvature_folder(run, column)
    if wanted is None:
        raise SearchIndexError(f"{run.folder} has no curvature of {column} that belongs to its store; {remedy}")
    try:
        matrices = [np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in wanted.checkpoints]
    except (OSError, ValueError, EOFError) as broken:
        raise SearchIndexError(f"the curvature in {folder} cannot be read ({broken}); {remedy}") from None
    if any(matrix.shape != (wanted.size, wanted.size) or matrix.dtype != np.float64 for matrix in matrices):
        raise SearchIndexError(f"the curvature in {folder} is damaged; remove the folder and {remedy}")
    if wanted.form == "moment":
        return tuple(MomentCurvature(matrix) for matrix in matrices)
    then = store.without(frozenset(wanted.left_out))  # a Gram matrix needs the rows that it was made of
    return tuple(
        GramCurvature(matrix, store.plan.dim, partial(then.blocks, name, column))
        for name, matrix in zip(wanted.checkpoints, matrices, strict=True)
    )


def has_curvature(run: Run, store: Store, column: Column) -> bool:
    """Whether the run holds the curvatures of a column for this store."""
    return _held(run, store, column) is not None


def matrix_bytes(store: Store) -> int:
    """Of one column at one checkpoint."""
    return 8 * _size(store) ** 2


def _size(store: Store) -> int:
    return min(len(store), store.plan.dim)


def _wanted(store: Store, column: Column) -> CurvatureDescription:
    form: Literal["moment", "gram"] = "gram" if len(store) < store.plan.dim else "moment"
    gone = () if store.kept is None else tuple(sorted(store.left_out.intersection(store.all_ids)))
    return CurvatureDescription(column, store.plan.hash, store.plan.checkpoint_names, form, _size(store), gone)


def _held(run: Run, store: Store, column: Column) -> CurvatureDescription | None:
    """The curvature of a column that the run holds for this store, whatever had been removed when it was built."""
    found = _described(curvature_folder(run, column))
    if found is None or found.store_plan_hash != store.plan.hash:
        return None
    return found if found == _wanted(store.without(frozenset(found.left_out)), column) else None


def _described(folder: Path) -> CurvatureDescription | None:
    try:
        return parse(CurvatureDescription, read_json(folder / DESCRIPTION_FILE, SearchIndexError, ""), str(folder))
    except ForebearError:
        return None
