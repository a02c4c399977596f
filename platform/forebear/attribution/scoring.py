"""Scores of every training sample straight from the store's blocks: exact, without an index; for evaluation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forebear.attribution.query import EmbeddedQuery
from forebear.attribution.sides import Sides
from forebear.data import TrainingSet
from forebear.errors import ConfigError
from forebear.estimators import estimator as estimator_named
from forebear.run import Run
from forebear.store import Store


class StoreScorer:
    """Scores queries by any estimator whose columns the store holds."""

    def __init__(self, run: Run, store: Store, training_set: TrainingSet) -> None:
        self.sides = Sides(run, store, training_set)

    def scores(
        self, estimator: str, queries: Sequence[EmbeddedQuery], ridge: float | None = None
    ) -> NDArray[np.float64]:
        """float64[Q, N], positive where training on the sample lowered the query's loss.

        `ridge` replaces the lambda of an estimator that has one. Curvatures that the run does not hold yet are built
        and kept in it. Raises ConfigError for an unknown estimator, one whose measurement the store or a query lacks,
        a `ridge` for an estimator without one, and no queries.
        """
        method = estimator_named(estimator)
        if not queries:
            raise ConfigError("there is no query to score; embed at least one")
        if ridge is not None and method.ridge is None:
            raise ConfigError(f"{estimator} has no ridge; leave it out")
        sides = self.sides
        sides.check(method)
        curvatures = sides.curvatures(method, build=True)
        psi = method.query_rows(sides.query_parts(method, queries), sides.weights(method), curvatures, ridge)
        residuals = sides.residuals(method)
        scores = np.zeros((len(queries), len(sides.store)))
        for place, blocks in enumerate(sides.blocks(method)):
            if not psi[place].any():  # a checkpoint that takes no part
                continue
            for first, rows in blocks:
                part = slice(first, first + len(rows))
                residual = None if residuals is None else residuals[place][part]
                scores[:, part] += psi[place] @ method.training_rows(rows.astype(np.float64), residual).T
        return scores
