"""What scores does a training image get from just any query?

A raw score says little: some images have high scores with everything. The null of an estimator is a matrix of the
scores that a keyed set of training images, standing for random queries, give to every sample, a reference's score with
itself left out. The queries' gradients differ in size, and with them their scores: each query's scores are first
brought to one scale, median 0 and interquartile range that of the standard normal, which its own few ancestors cannot
move.

RUN/calibration/ESTIMATOR.npy holds the matrix, float32[N, M], NaN where sample and reference are one; ESTIMATOR.json
what it belongs to, and each reference's highest raw score with another sample.
"""

from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from forebear.attribution.answer import CalibrationRecord
from forebear.attribution.auditing import AuditConfig, reference_rows
from forebear.attribution.indexes import LiveIndex
from forebear.attribution.sides import Sides
from forebear.config import STRICT, parse, plain
from forebear.errors import ForebearError, SearchIndexError
from forebear.estimators import Estimator
from forebear.files import fingerprint, read_json, whole_file, write_json
from forebear.run import Run

NORMAL_RANGE = 1.3489795003921634
"""Interquartile range of the standard normal."""
QUERIES_AT_ONCE = 64
FORMAT_VERSION = 1


@dataclass(frozen=True, config=STRICT)
class CalibrationDescription:
    """What RUN/calibration/ESTIMATOR.json says; written when the matrix is there."""

    estimator: str
    """Whose scores they are."""
    store_plan_hash: str
    """Of the store, all segments together."""
    weights: dict[str, float]
    """w_c by checkpoint."""
    ridge: float | None
    """lambda, where there is one."""
    samples: int
    """N."""
    seed: int
    """Of the choice of references."""
    references: tuple[int, ...]
    """Rows of the M training images that stand for queries, rising."""
    nearest: tuple[float, ...] = ()
    """[M]: each reference's highest score with another sample, as it is."""
    left_out: str = ""
    """Identifies the removed samples of the store, which have no row; empty without any."""
    format_version: int = FORMAT_VERSION
    """Of this file and its matrix."""


@plain_dataclass(frozen=True)
class Calibration:
    """The null of one estimator."""

    description: CalibrationDescription
    null: NDArray[np.float32]
    """float32[N, M] on the one scale; mapped from disk."""

    @property
    def record(self) -> CalibrationRecord:
        return CalibrationRecord(len(self.description.references), self.description.seed)

    def percentiles(self, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Percent of the references' scores with each of `rows` that are lower than the query's: float64[len(rows)].

        `scores` float32[N] are the query's, with every sample. NaN for a row with no reference but itself.
        """
        mine = standardised(scores[None])[0, rows]  # [R]
        others = self.null[rows]  # [R, M]
        known = np.isfinite(others).sum(axis=1)
        lower = (others < mine[:, None]).sum(axis=1)  # NaN is not lower
        return np.where(known > 0, 100.0 * lower / np.maximum(known, 1), np.nan)


def standardised(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scores [Q, N] on one scale: less each query's median, over its interquartile range, times that of the normal.

    The standard deviation takes its place where that range is 0, and scores that are all alike become 0.
    """
    exact = scores.astype(np.float64)
    low, middle, high = np.quantile(exact, [0.25, 0.5, 0.75], axis=1)[:, :, None]  # [Q, 1] each
    scale = (high - low) / NORMAL_RANGE
    scale = np.where(scale > 0, scale, exact.std(axis=1, keepdims=True))
    found: NDArray[np.float32] = ((exact - middle) / np.where(scale > 0, scale, 1.0)).astype(np.float32)
    return found


def calibrate(run: Run, sides: Sides, method: Estimator, index: LiveIndex, audit: AuditConfig) -> Calibration:
    """The null of an estimator, from the run, or computed from its index and kept there.

    It is only held in memory when the run cannot be written to. Takes the time of `audit.references` queries.
    """
    wanted = _wanted(sides, method, audit)
    file = run.folder / "calibration" / f"{method.name}.npy"
    return _kept(file, wanted) or _made(file, wanted, sides, method, index)


def _wanted(sides: Sides, method: Estimator, audit: AuditConfig) -> CalibrationDescription:
    manifest = sides.store.manifest
    rows = reference_rows(len(sides.store), audit.references, audit.seed)
    kept = sides.store.kept
    return CalibrationDescription(
        method.name, manifest.plan_hash, dict(manifest.weights), method.ridge, len(sides.store), audit.seed, rows,
        left_out="" if kept is None else fingerprint(kept.tolist()),
    )  # fmt: skip


def _kept(file: Path, wanted: CalibrationDescription) -> Calibration | None:
    """The calibration on disk, when it is the one wanted and whole."""
    try:
        values = read_json(file.with_suffix(".json"), SearchIndexError, "")
        found = parse(CalibrationDescription, values, str(file))
        null = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ForebearError, OSError, ValueError):
        return None
    same = {**plain(found), "nearest": []} == {**plain(wanted), "nearest": []}
    whole = null.shape == (wanted.samples, len(wanted.references)) and null.dtype == np.float32
    return Calibration(found, null) if same and whole and len(found.nearest) == len(wanted.references) else None


def _made(file: Path, wanted: CalibrationDescription, sides: Sides, method: Estimator, index: LiveIndex) -> Calibration:
    rows = np.array(wanted.references, np.int64)
    psi = method.query_vector(
        reference_parts(sides, method, rows), sides.weights(method), sides.curvatures(method)
    )  # [M, D]
    null = np.empty((wanted.samples, len(rows)), np.float32)
    nearest: list[float] = []
    for first in range(0, len(rows), QUERIES_AT_ONCE):
        part = slice(first, first + QUERIES_AT_ONCE)
        scores = index.scores(psi[part])  # [B, N]
        itself = np.arange(len(scores)), rows[part]
        scaled = standardised(scores)
        scaled[itself] = np.nan
        null[:, part] = scaled.T
        scores[itself] = -np.inf
        nearest += scores.max(axis=1).tolist() if wanted.samples > 1 else [0.0] * len(scores)
    made = replace(wanted, nearest=tuple(nearest))
    try:
        file.with_suffix(".json").unlink(missing_ok=True)  # the matrix on disk is never another than the one described
        with whole_file(file) as part_file, part_file.open("wb") as handle:
            np.save(handle, null)
        write_json(file.with_suffix(".json"), plain(made))
    except OSError:  # a run on a read-only disk answers all the same
        return Calibration(made, null)
    return Calibration(made, np.load(file, mmap_mode="r", allow_pickle=False))


def reference_parts(sides: Sides, method: Estimator, rows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """What the estimator reads of training samples as queries, for each of its parts: float32[M, k]; `rows` rise."""
    return [
        np.concatenate([block[rows[(rows >= start) & (rows < start + len(block))] - start] for start, block in blocks])
        for blocks in sides.blocks(method)
    ]
