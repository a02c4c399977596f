"""The LDS of estimators on a run's ground truth: ridges chosen on the tuning queries, everything else on the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forebear.config import plain
from forebear.errors import StoreError
from forebear.estimators import estimator
from forebear.evaluation.evaluated_run import Asked, EvaluatedRun
from forebear.evaluation.figures import Figure, Result, write_result
from forebear.evaluation.ground_truth import GroundTruth
from forebear.evaluation.lds import (
    RidgeChoice,
    choose_ridge,
    mean_lds,
    noise_ceiling,
    predicted_losses,
    spearman_rows,
)
from forebear.evaluation.lds_config import LdsConfig
from forebear.evaluation.metrics import signed_square
from forebear.evaluation.queries import QueryKind
from forebear.evaluation.retraining import make_ground_truth
from forebear.run import Run

QUERY_KINDS: tuple[QueryKind, ...] = ("validation", "generated")
CEILING = "ceiling"
"""Stands in the place of an estimator: the losses of the second training seed predict those of the first."""
METRIC = "lds"


@dataclass(frozen=True)
class Measured:
    """What the models of the first training seed say, in a scorer's order of samples."""

    truth: GroundTruth
    seed: int
    members: NDArray[np.bool_]
    """bool[M, N]: the subsets whose models are there."""
    losses: NDArray[np.float64]
    """float64[M, Q]."""

    @classmethod
    def of(cls, truth: GroundTruth, sample_ids: Sequence[str]) -> "Measured":
        """Raises StoreError when fewer than two models are there, or the samples are another training set's."""
        seed = next(iter(truth.seeds), 0)
        present = truth.subsets_of(seed)
        if len(present) < 2:
            raise StoreError(f"{truth.folder} has losses of {len(present)} models; go on with the retraining")
        return cls(truth, seed, truth.subsets.in_order(sample_ids)[present], truth.losses(seed))

    def reported(self) -> list[tuple[QueryKind, NDArray[np.int64]]]:
        """Each kind of query that there is, with its rows but for those for tuning."""
        found = [(kind, self.truth.queries.rows(kind)) for kind in QUERY_KINDS]
        return [(kind, rows) for kind, rows in found if len(rows)]


def run_lds(run: Run, config: LdsConfig, name: str = "lds") -> Result | None:
    """Retrain what is missing, judge the estimators and write RUN/evaluation/NAME; None when a signal stopped it.

    Raises what `make_ground_truth`, EvaluatedRun and `judge` raise.
    """
    if make_ground_truth(run, config, name) is None:
        return None
    return judge(EvaluatedRun.open(run), config, name)


def judge(run: EvaluatedRun, config: LdsConfig, name: str = "lds") -> Result:
    """The LDS of estimators on the models that there are so far, with intervals and ceiling, written with its details.

    Figures have the metric `lds` and the variants `validation`, `generated` and each with `, squared`; the estimator
    `ceiling` is the noise ceiling. Raises StoreError without ground truth, and what embedding and scoring raise.
    """
    truth = GroundTruth.open(run.run, name)
    measured = Measured.of(truth, run.store.ids())
    estimators = run.estimators(config.estimators)
    asked = [Asked(q.id, x, q.caption, q.label) for q, x in zip(truth.queries.table, truth.queries.pixels, strict=True)]
    embedded = run.embed(asked, estimators)
    tuning = truth.queries.rows("validation", tuning=True)
    figures = ceiling(measured, config.replicates)
    details: list[pa.Table] = []
    choices: dict[str, RidgeChoice] = {}
    for method in estimators:
        if estimator(method).ridge is not None and len(tuning):
            choices[method] = choose_ridge(
                run,
                method,
                [embedded[row] for row in tuning],
                measured.members,
                measured.losses[:, tuning],
                config.ridges,
            )
        scores = run.scores(method, embedded, choices[method].ridge if method in choices else None)
        figures += lds_figures(measured, method, scores, config.replicates)
        details.append(_details(measured, method, scores))
    facts = run.facts(embedded, estimators) | _facts(measured, choices)
    result = Result("lds", name, plain(config), tuple(figures), facts)
    write_result(run.run, result, pa.concat_tables(details))
    return result


def _facts(measured: Measured, choices: Mapping[str, RidgeChoice]) -> dict[str, Any]:
    truth = measured.truth
    full = truth.by_timestep(None).mean(1, np.float64)  # [Q]
    return {
        "subsets": len(measured.members),
        "models": len(truth.trained),
        "tuning_queries": len(truth.queries.rows("validation", tuning=True)),
        "ridges": {method: choice.ridge for method, choice in choices.items()},
        "ridge_trials": {m: {f"{ridge:g}": lds for ridge, lds in c.trials.items()} for m, c in choices.items()},
        "full_model_loss": {kind: float(full[rows].mean()) for kind, rows in measured.reported()},
        "retrained_loss": {kind: float(measured.losses[:, rows].mean()) for kind, rows in measured.reported()},
    }


def lds_figures(measured: Measured, method: str, scores: NDArray[np.floating], replicates: int = 1000) -> list[Figure]:
    """The figures of scores [Q, N] of all queries, linear and signed-square; those for tuning are not looked at."""
    found = []
    for kind, rows in measured.reported():
        for variant, values in _forms(kind, scores[rows]).items():
            interval = mean_lds(predicted_losses(values, measured.members), measured.losses[:, rows].T, replicates)
            found.append(Figure.of(method, METRIC, interval, len(rows), variant))
    return found


def ceiling(measured: Measured, replicates: int = 1000) -> list[Figure]:
    """The noise ceiling from the second training seed, on the subsets that have both; none when fewer than two do."""
    truth = measured.truth
    own = truth.subsets_of(measured.seed)
    for second in truth.seeds[1:2]:
        its = truth.subsets_of(second)
        both = np.intersect1d(own, its)
        if len(both) > 1:
            one, other = measured.losses[np.isin(own, both)], truth.losses(second)[np.isin(its, both)]
            return [
                Figure.of(
                    CEILING, METRIC, noise_ceiling(one[:, rows], other[:, rows], replicates), len(rows), variant=kind
                )
                for kind, rows in measured.reported()
            ]
    return []


def _forms(kind: QueryKind, scores: NDArray[np.floating]) -> Mapping[str, NDArray[np.floating]]:
    return {kind: scores, f"{kind}, squared": signed_square(scores)}


def _details(measured: Measured, method: str, scores: NDArray[np.floating]) -> pa.Table:
    """One row for each reported query and form."""
    parts = []
    for kind, rows in measured.reported():
        ids = [measured.truth.queries.table[row].id for row in rows]
        for variant, values in _forms(kind, scores[rows]).items():
            found = spearman_rows(predicted_losses(values, measured.members), measured.losses[:, rows].T)
            parts.append(
                pa.table(
                    {
                        "estimator": [method] * len(rows),
                        "variant": [variant] * len(rows),
                        "query": ids,
                        "lds": found,
                    }
                )
            )
    return pa.concat_tables(parts)
