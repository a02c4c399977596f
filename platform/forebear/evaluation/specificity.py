"""Do different queries get different answers, and does the size of a gradient decide them?

The paper of Diffusion-ReTrac (Xie et al., arXiv 2401.09031) finds that under TracIn the same images influence every
query, because a gradient's norm depends on the timestep at which it was taken. Measured here: how much the top lists
of Q queries overlap, how concentrated influence is, how its rank goes with the norm of the training gradient, and that
norm against the timestep at each checkpoint.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.attribution.query import EmbeddedQuery, QueryConfig
from forebear.config import STRICT, plain
from forebear.diffusion.noise import stratified_timesteps
from forebear.evaluation.asking import generated_queries, training_queries, training_rows
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.figures import Figure, Result, check_name, write_result
from forebear.evaluation.lds import spearman_rows
from forebear.evaluation.metrics import (
    generally_influential,
    gini,
    jackknife,
    lorenz,
    occurrences,
    positive_shares,
    top_rows,
    unique_ratio,
)
from forebear.run import Run

Count = Annotated[int, Field(ge=1)]
SHOWN = 12
"""Generally influential samples of an estimator that the report shows."""
LORENZ_POINTS = 101
NORM_ESTIMATORS = ("tracin",)
"""The estimator for which queries are measured when only norms are wanted."""


@dataclass(frozen=True, config=STRICT)
class SpecificityConfig:
    """Which queries are asked, and what counts as influential."""

    queries: Annotated[int, Field(ge=2)] = 64
    """Q."""
    source: Literal["training", "generated"] = "training"
    """Training pictures chosen by key, or pictures that the model makes for the captions or labels of such ones."""
    top: Count = 20
    """n: length of a query's list."""
    at_least: Annotated[float, Field(gt=0, le=1)] = 0.125
    """A sample is generally influential when it is in at least this share of the Q lists (and in two)."""
    norm_samples: Annotated[int, Field(ge=0)] = 16
    """Training pictures whose gradient norm is measured at ..."""
    norm_timesteps: Count = 40
    """... so many stratified timesteps, for the curve of norm against timestep; 0 pictures leave it out."""
    estimators: tuple[str, ...] = ()
    """Empty: all that the store serves. The baselines `pixel` and `random` are always added."""
    seed: int = 0
    """Of the choice of queries and of generated pictures."""
    steps: Count = 50
    """Of generated pictures."""
    guidance: float = 1.0
    """Of generated pictures."""

    @property
    def least_lists(self) -> int:
        """m."""
        return max(2, math.ceil(self.at_least * self.queries))


def run_specificity(run: Run, config: SpecificityConfig, name: str = "specificity") -> Result:
    """Evaluate and write RUN/evaluation/NAME. Embedded queries are kept: the same call goes on where it stopped.

    Raises ConfigError for more queries than training images or a list longer than them, and what EvaluatedRun raises.
    """
    check_name(name)
    evaluated = EvaluatedRun.open(run)
    estimators = evaluated.estimators(config.estimators)
    rows = training_rows(evaluated, config.queries, "specificity", config.seed)
    asked = (
        training_queries(evaluated, rows)
        if config.source == "training"
        else generated_queries(evaluated, rows, seed=config.seed, steps=config.steps, guidance=config.guidance)
    )
    queries = evaluated.embed(asked, estimators)
    figures: list[Figure] = []
    drawn: dict[str, Any] = {}
    tops: dict[str, NDArray[np.int64]] = {}
    norms, timesteps = mean_norms(evaluated), recorded_timesteps(evaluated)
    for estimator in estimators:
        scores = evaluated.scores(estimator, queries)
        tops[estimator] = top_rows(scores, config.top)
        figures += overlap_figures(estimator, tops[estimator], config.least_lists)
        figures += concentration_figures(estimator, scores)
        figures += bias_figures(estimator, scores, norms, timesteps)
        drawn[estimator] = _drawn(tops[estimator], scores, config)
    figures += comparison_figures(tops, config.least_lists)
    facts = evaluated.facts(queries, estimators) | {
        "at_least": config.least_lists,
        "drawn": drawn,
        "norm_curves": norm_curves(evaluated, config),
        "store_norms": store_norms(evaluated),
    }
    result = Result("specificity", name, plain(config), tuple(figures), facts)
    write_result(run, result, _details(evaluated, tops))
    return result


def overlap_figures(estimator: str, top: NDArray[np.int64], at_least: int) -> list[Figure]:
    """The unique ratio U / (Q n) and the number of generally influential samples, with jackknife intervals."""
    count = len(top)
    return [
        Figure.of(estimator, "unique ratio", jackknife(lambda kept: unique_ratio(top[kept]), count), count),
        Figure.of(
            estimator,
            "generally influential",
            jackknife(lambda kept: generally_influential(top[kept], at_least), count),
            count,
        ),
    ]


def comparison_figures(tops: Mapping[str, NDArray[np.int64]], at_least: int) -> list[Figure]:
    """Each estimator against TracIn: the ratio of their unique ratios and of their generally influential samples."""
    if "tracin" not in tops:
        return []
    base = tops["tracin"]
    figures = []
    for estimator, top in tops.items():
        if estimator == "tracin":
            continue

        def uniqueness(kept: NDArray[np.int64], top: NDArray[np.int64] = top) -> float:
            return unique_ratio(top[kept]) / unique_ratio(base[kept])

        def influential(kept: NDArray[np.int64], top: NDArray[np.int64] = top) -> float:
            ours, theirs = (generally_influential(lists[kept], at_least) for lists in (top, base))
            return ours / theirs if theirs else np.nan

        for metric, statistic in (("unique ratio / tracin", uniqueness), ("influential / tracin", influential)):
            figures.append(Figure.of(estimator, metric, jackknife(statistic, len(top)), len(top)))
    return figures


def concentration_figures(estimator: str, scores: NDArray[np.float64]) -> list[Figure]:
    """Gini's coefficient of the samples' mean shares of positive influence, with a jackknife interval."""
    shares = positive_shares(scores)  # [Q, N]
    interval = jackknife(lambda kept: gini(shares[kept].mean(0)), len(scores))
    return [Figure.of(estimator, "gini", interval, len(scores))]


def bias_figures(
    estimator: str, scores: NDArray[np.float64], norms: NDArray[np.float64], timesteps: NDArray[np.float64] | None
) -> list[Figure]:
    """Spearman of influence, and of its size, with the training gradient's norm float64[N] and recorded timestep."""
    found = []
    for name, values in (("norm", norms), ("timestep", timesteps)):
        if values is not None:
            others = np.broadcast_to(values, scores.shape)
            for what, influence in (("influence", scores), ("|influence|", np.abs(scores))):
                found.append(Figure.mean(estimator, f"{what} ~ {name}", spearman_rows(influence, others)))
    return found


def mean_norms(evaluated: EvaluatedRun) -> NDArray[np.float64]:
    """Each sample's gradient norm, the mean over its timesteps and over checkpoints by their weights: float64[N]."""
    return _over_checkpoints(evaluated, [evaluated.store.norms(name).mean(1) for name in _checkpoints(evaluated)])


def recorded_timesteps(evaluated: EvaluatedRun) -> NDArray[np.float64] | None:
    """Each sample's timestep as training drew it, the mean as in `mean_norms`; None when all samples share theirs."""
    if evaluated.store.plan.timesteps:
        return None
    return _over_checkpoints(evaluated, [evaluated.store.timesteps(name).mean(1) for name in _checkpoints(evaluated)])


def store_norms(evaluated: EvaluatedRun) -> dict[str, list[dict[str, float]]]:
    """By checkpoint, quartiles over samples of the gradient norm at the store's timesteps, or in 20 bins of them."""
    found = {}
    for name in _checkpoints(evaluated):
        norms, timesteps = evaluated.store.norms(name).reshape(-1), evaluated.store.timesteps(name).reshape(-1)
        if evaluated.store.plan.timesteps:
            bins = np.array(sorted(evaluated.store.plan.timesteps))
            place = np.searchsorted(bins, timesteps)
        else:
            edges = np.linspace(0, evaluated.model.total_timesteps, 21)
            bins, place = (edges[1:] + edges[:-1]) / 2, np.digitize(timesteps, edges[1:-1])
        found[name] = [_quartiles(float(t), norms[place == at]) for at, t in enumerate(bins) if (place == at).any()]
    return found


def norm_curves(evaluated: EvaluatedRun, config: SpecificityConfig) -> dict[str, list[dict[str, float]]]:
    """By checkpoint, quartiles over some training pictures of the gradient norm at finely spaced timesteps."""
    if not config.norm_samples:
        return {}
    count = min(config.norm_samples, len(evaluated.training_set))
    rows = training_rows(evaluated, count, "norm curves", config.seed)
    total = evaluated.model.total_timesteps
    timesteps = np.unique(stratified_timesteps(min(config.norm_timesteps, total), total)).tolist()
    asked = training_queries(evaluated, rows)
    queries = evaluated.embed(asked, NORM_ESTIMATORS, QueryConfig(timesteps=tuple(timesteps), draws=1))
    return {
        name: [_quartiles(float(t), values) for t, values in zip(timesteps, _norms(queries, place).T, strict=True)]
        for place, name in enumerate(_checkpoints(evaluated))
    }


def _norms(queries: Sequence[EmbeddedQuery], place: int) -> NDArray[np.float32]:
    return np.concatenate([query.embeddings[place].norms for query in queries])  # [n, T]


def _quartiles(timestep: float, norms: NDArray[np.floating]) -> dict[str, float]:
    low, middle, high = np.percentile(norms.astype(np.float64), [25, 50, 75])
    return {"timestep": timestep, "low": float(low), "median": float(middle), "high": float(high)}


def _checkpoints(evaluated: EvaluatedRun) -> tuple[str, ...]:
    return evaluated.store.plan.checkpoint_names


def _over_checkpoints(evaluated: EvaluatedRun, values: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    weights = [evaluated.store.manifest.weights[name] for name in _checkpoints(evaluated)]
    return np.asarray(np.average(np.stack(values).astype(np.float64), axis=0, weights=weights))


def _drawn(top: NDArray[np.int64], scores: NDArray[np.float64], config: SpecificityConfig) -> dict[str, Any]:
    """What the report draws: the most common rows, how many samples are in at least m lists, and the Lorenz curve."""
    counts = occurrences(top, scores.shape[1])
    order = np.lexsort((np.arange(len(counts)), -counts))
    common = [[int(row), int(counts[row])] for row in order[:SHOWN] if counts[row] >= 2]
    curve = lorenz(positive_shares(scores).mean(0))
    at = np.linspace(0, 1, LORENZ_POINTS)
    return {
        "common": common,
        "in_at_least": [int((counts >= lists).sum()) for lists in range(1, config.queries + 1)],
        "lorenz": np.interp(at, np.linspace(0, 1, len(curve)), curve).tolist(),
    }


def _details(evaluated: EvaluatedRun, tops: Mapping[str, NDArray[np.int64]]) -> pa.Table:
    """One row for each estimator and sample that is in any list."""
    samples = evaluated.training_set.samples
    rows = [
        {"estimator": estimator, "sample_id": samples[row].id, "lists": int(count)}
        for estimator, top in tops.items()
        for row, count in enumerate(occurrences(top, len(samples)))
        if count
    ]
    schema = pa.schema([("estimator", pa.string()), ("sample_id", pa.string()), ("lists", pa.int64())])
    return pa.Table.from_pylist(rows, schema=schema)
