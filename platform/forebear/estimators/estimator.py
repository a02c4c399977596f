"""Estimators: every one is an inner product of a stored training vector and a query's vector.

    score(i, q) = sum over checkpoints c of w_c <phi_c(i), psi_c(q)>

phi is one column of the embeddings (gradients.embedding) or of a baseline, as it is or scaled; psi is the query's,
through the curvature where the estimator has one. Checkpoints are concatenated times sqrt(w_c), so that a single inner
product is the whole sum. w_c = learning rate x batch size x interval / N (Xie et al., arXiv 2401.09031, in the paper's
code).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forebear.diffusion.measurement import Measurement
from forebear.errors import ConfigError
from forebear.estimators.curvature import Curvature
from forebear.estimators.vectors import BASELINES, MEASUREMENTS, Blocks, Column, Real, unit

SIGN = "a positive score means that training on the sample lowered the query's loss"
"""One for all estimators; manifests, indexes and answers say it."""


@dataclass(frozen=True)
class Estimator:
    """How training vectors and a query's vector are made from embeddings."""

    name: str
    description: str
    """One sentence, for reports."""
    column: Column
    """What is read on both sides."""
    unit_rows: bool = False
    """Whether the rows of each checkpoint are scaled to norm 1 first, on both sides."""
    residual: bool = False
    """Whether training rows are multiplied by their sample's residual (`vectors.residuals`)."""
    ridge: float | None = None
    """lambda of the curvature (`curvature`), unless a call gives another; None: no curvature."""
    checkpoints: Literal["weighted", "alike", "last"] = "weighted"
    """How they are summed: by w_c, all with weight 1, or the last alone with weight 1."""
    equal_timesteps: bool = False
    """Whether a score means something only when the query is measured at timesteps of the training side."""

    @property
    def baseline(self) -> bool:
        """Whether no model takes part: no checkpoints, one part of weight 1."""
        return self.column in BASELINES

    @property
    def measurement(self) -> Measurement | None:
        """What is measured of a picture; None for baselines."""
        return MEASUREMENTS.get(self.column)

    @property
    def training_side(self) -> tuple[Column, bool, bool]:
        """What phi depends on: estimators with the same one share an index."""
        return self.column, self.unit_rows, self.residual

    def training_rows(self, rows: NDArray[Real], residual: NDArray[np.float64] | None) -> NDArray[Real]:
        """phi_c of B rows [B, k] in their precision, without w_c; `residual` float64[B] where the estimator has one."""
        scaled = unit(rows) if self.unit_rows else rows
        if not self.residual:
            return scaled
        if residual is None:
            raise ConfigError(f"{self.name} needs the residuals of the training samples; pass them")
        weighted: NDArray[Real] = (scaled * residual[:, None]).astype(rows.dtype)
        return weighted

    def training_vectors(
        self,
        blocks: Sequence[Blocks],
        weights: Sequence[float],
        residuals: Sequence[NDArray[np.float64]] | None = None,
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """phi of all samples, from the blocks of C checkpoints walked side by side and their weights w_c.

        `residuals` float64[N] of each checkpoint, where the estimator uses them. Yields (first row, float32[B, C * k]).
        Raises ConfigError when a weight is not positive and finite, when residuals are missing, or when the
        checkpoints' blocks do not begin at the same rows.
        """
        roots = _roots(weights, len(blocks))
        for pieces in zip(*blocks, strict=True):
            if len({(first, len(rows)) for first, rows in pieces}) != 1:
                raise ConfigError("the checkpoints' blocks hold different rows; embed every checkpoint in one store")
            parts = []
            for place, (first, rows) in enumerate(pieces):
                residual = None if residuals is None else residuals[place][first : first + len(rows)]
                parts.append(self.training_rows(rows, residual) * roots[place])
            yield pieces[0][0], np.concatenate(parts, axis=1)  # [B, C * k]

    def query_rows(
        self,
        parts: Sequence[NDArray[np.float32]],
        weights: Sequence[float],
        curvatures: Sequence[Curvature] | None = None,
        ridge: float | None = None,
        *,
        in_span: bool = False,
    ) -> list[NDArray[np.float64]]:
        """psi_c of B queries from their columns at C checkpoints, float32[B, k] each: what phi_c, without w_c, meets.

        `curvatures` are those of the checkpoints, where the estimator has a ridge; `ridge` replaces its lambda, and
        `in_span` is Curvature.solve's. Raises ConfigError when weights do not fit, and what Curvature.solve raises.
        """
        shares = _roots(weights, len(parts)).astype(np.float64) ** 2 if self.checkpoints == "weighted" else None
        found = []
        for place, part in enumerate(parts):
            if self.checkpoints == "last" and place < len(parts) - 1:
                found.append(np.zeros(part.shape))
                continue
            exact = part.astype(np.float64)
            rows = unit(exact) if self.unit_rows else exact
            if self.ridge is not None:
                if curvatures is None:
                    raise ConfigError(f"{self.name} needs the curvature of every checkpoint; pass them")
                rows = curvatures[place].solve(rows, self.ridge if ridge is None else ridge, in_span=in_span)
            found.append(rows if shares is None else rows * shares[place])
        return found

    def query_vector(
        self,
        parts: Sequence[NDArray[np.float32]],
        weights: Sequence[float],
        curvatures: Sequence[Curvature] | None = None,
        ridge: float | None = None,
    ) -> NDArray[np.float32]:
        """psi of B queries for the index, whose phi hold sqrt(w_c): float32[B, C * k]. Arguments as `query_rows`."""
        roots = _roots(weights, len(parts)).astype(np.float64)
        rows = self.query_rows(parts, weights, curvatures, ridge, in_span=True)
        return np.concatenate([row / root for row, root in zip(rows, roots, strict=True)], axis=1).astype(np.float32)


def _roots(weights: Sequence[float], count: int) -> NDArray[np.float32]:
    """sqrt(w_c), float32[C]."""
    values = np.asarray(weights, np.float64)
    if values.shape != (count,) or not count or not (np.isfinite(values) & (values > 0)).all():
        raise ConfigError(
            f"{count} checkpoints need as many weights, positive and finite, but got {list(weights)}; "
            "check learning_rate, batch_size, interval and sample_count in each checkpoint.json"
        )
    return np.sqrt(values).astype(np.float32)
