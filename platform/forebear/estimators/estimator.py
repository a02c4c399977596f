"""Estimators: every one is an inner product of a stored training vector and a query's vector.

    score(i, q) = sum over checkpoints c of w_c <phi_c(i), psi_c(q)>

phi and psi are one column of the embeddings (gradients.embedding), as it is or scaled to norm 1. Checkpoints are
concatenated times sqrt(w_c), so that a single inner product is the whole sum. w_c = learning rate x batch size x
interval / N (Xie et al., arXiv 2401.09031, in the paper's code).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forebear.errors import ConfigError
from forebear.gradients.embedding import Embeddings

Column = Literal["mean", "unit_mean", "unit_matched"]
Blocks = Iterable[tuple[int, NDArray[np.float32]]]
"""(first row, float32[B, k]) in order."""


@dataclass(frozen=True)
class Estimator:
    """How training vectors and a query's vector are made from embeddings; the same on both sides."""

    name: str
    description: str
    """One sentence, for reports."""
    column: Column
    """The column of the store, and of the query's embeddings, that is read."""
    unit_rows: bool = False
    """Whether the rows of each checkpoint are scaled to norm 1 first."""
    equal_timesteps: bool = False
    """Whether a score means something only when the query is measured at timesteps of the training side."""

    def training_vectors(
        self, blocks: Sequence[Blocks], weights: Sequence[float]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """phi of all samples, from the blocks of C checkpoints walked side by side and their weights w_c.

        Yields (first row, float32[B, C * k]). Raises ConfigError when a weight is not positive and finite, or when the
        checkpoints' blocks do not begin at the same rows.
        """
        roots = _roots(weights, len(blocks))
        for pieces in zip(*blocks, strict=True):
            if len({(first, len(rows)) for first, rows in pieces}) != 1:
                raise ConfigError("the checkpoints' blocks hold different rows; embed every checkpoint in one store")
            yield pieces[0][0], self._concatenated([rows for _, rows in pieces], roots)

    def query_vector(self, embedded: Sequence[Embeddings], weights: Sequence[float]) -> NDArray[np.float32]:
        """psi of B queries, from their embeddings at C checkpoints and the weights w_c: float32[B, C * k].

        Raises ConfigError as `training_vectors` does.
        """
        roots = _roots(weights, len(embedded))
        return self._concatenated([getattr(embeddings, self.column) for embeddings in embedded], roots)

    def _concatenated(self, parts: Sequence[NDArray[np.float32]], roots: NDArray[np.float32]) -> NDArray[np.float32]:
        scaled = [(_unit(part) if self.unit_rows else part) * root for part, root in zip(parts, roots, strict=True)]
        return np.concatenate(scaled, axis=1)  # [B, C * k]


def _roots(weights: Sequence[float], count: int) -> NDArray[np.float32]:
    """sqrt(w_c), float32[C]."""
    values = np.asarray(weights, np.float64)
    if values.shape != (count,) or not count or not (np.isfinite(values) & (values > 0)).all():
        raise ConfigError(
            f"{count} checkpoints need as many weights, positive and finite, but got {list(weights)}; "
            "check learning_rate, batch_size, interval and sample_count in each checkpoint.json"
        )
    return np.sqrt(values).astype(np.float32)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows float32[B, k] scaled to norm 1; a row of zeros stays.

    Norms are taken in float64, because the squares of small gradients are below the smallest float32.
    """
    norms = np.sqrt(np.einsum("bk,bk->b", rows, rows, dtype=np.float64))[:, None]  # [B, 1]
    return (rows / np.where(norms > 0, norms, 1.0)).astype(np.float32)


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        estimator.name: estimator
        for estimator in (
            Estimator(
                "tracin",
                "Inner product of the loss gradients, each a mean over timesteps (Diffusion-TracIn).",
                "mean",
            ),
            Estimator(
                "retrac",
                "As tracin, with every timestep's gradient scaled to norm 1 before the mean, so that no timestep "
                "dominates by its norm alone (Diffusion-ReTrac).",
                "unit_mean",
            ),
            Estimator(
                "cosine",
                "Cosine of the loss gradients, each a mean over timesteps.",
                "mean",
                unit_rows=True,
            ),
            Estimator(
                "retrac-matched",
                "Mean over timesteps of the cosine of the loss gradients at the same timestep and noise.",
                "unit_matched",
                equal_timesteps=True,
            ),
        )
    }
)
"""By name."""


def estimator(name: str) -> Estimator:
    """The estimator of a name; raises ConfigError that lists the names there are."""
    try:
        return ESTIMATORS[name]
    except KeyError:
        raise ConfigError(f"there is no estimator {name!r}; choose among: {', '.join(ESTIMATORS)}") from None
