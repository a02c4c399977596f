"""Do an estimator's scores find images that do not belong to the training set?

An image that is unlike all others is learnt from itself alone, so its score on itself is high (Pruthi et al., arXiv
2002.08484), unless it is easy or one of several of its kind. Then what the others give it is low, and its neighbours
are far (`isolation`). The metric needs a training set that marks by a group what was planted; `planting` makes such
runs.
"""

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, plain
from forebear.errors import ConfigError
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.figures import Figure, Result, check_name, write_result
from forebear.evaluation.isolation import isolation, received
from forebear.evaluation.metrics import Interval, bootstrap_auc, precision_at
from forebear.evaluation.planting import FOREIGN, MISLABELLED, PLANTED_GROUP, PlantingConfig, planted_run
from forebear.run import Run

LOSS, NORM = "loss", "gradient norm"
"""Baselines of this evaluation: the sample's mean training loss, and the mean norm of its gradient."""
SELF, SUPPORT, ISOLATION = "self", "support", "isolation"
"""An estimator's scores of a sample, by which samples are ordered."""
SHOWN = 24
"""Most suspicious images that the report shows."""

Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, config=STRICT)
class OutliersConfig:
    """Which samples are the planted ones."""

    planted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Group column and its values that mark them in the run's own training set, each value evaluated apart:
    {source: [digits]}. Empty: images are planted, and a model is trained on them, as `planting` says."""
    planting: PlantingConfig = field(default_factory=PlantingConfig)
    """What is planted, where `planted` is empty."""
    estimators: tuple[str, ...] = ()
    """Empty: all that the store serves. Baselines are always added: `pixel`, `random`, `loss`, `gradient norm`."""
    neighbours: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """`isolation` asks for the neighbour with this share of the samples nearer: more than resemble each other and do
    not belong."""


def run_outliers(run: Run, config: OutliersConfig, name: str = "outliers") -> Result | None:
    """Evaluate and write RUN/evaluation/NAME; None when a signal stopped the training of a run with planted images.

    Raises ConfigError when no sample, or every one, is marked, and what EvaluatedRun and `planted_run` raise.
    """
    check_name(name)
    subject = run if config.planted else planted_run(run, config.planting, name)
    if subject is None:
        return None
    evaluated = EvaluatedRun.open(subject)
    estimators = evaluated.estimators(config.estimators)
    marks = planted_samples(evaluated, config.planted or {PLANTED_GROUP: (FOREIGN, MISLABELLED)})
    scores = {one: sample_scores(evaluated, one, config.neighbours) for one in estimators}
    scores |= {one: {SELF: found} for one, found in sample_baselines(evaluated).items()}
    anywhere = np.any(list(marks.values()), axis=0)
    figures = []
    for value, marked in marks.items():
        kept = marked | ~anywhere  # what was planted in another way is neither right nor wrong
        for method, by_score in scores.items():
            for score, found in by_score.items():
                figures += outlier_figures(method, found[kept], marked[kept], value, score)
    facts = evaluated.facts([], estimators) | {
        "subject": "" if subject is run else str(subject.folder.relative_to(run.folder)),
        "planted": {value: int(marked.sum()) for value, marked in marks.items()},
        "marked": np.flatnonzero(anywhere).tolist(),
        "suspicious": {
            one: np.argsort(-by_score[SELF], kind="stable")[:SHOWN].tolist() for one, by_score in scores.items()
        },
    }
    result = Result("outliers", name, plain(config), tuple(figures), facts)
    write_result(run, result, _details(evaluated, scores, marks))
    return result


def outlier_figures(
    method: str, scores: NDArray[np.floating], planted: NDArray[np.bool_], value: str, score: str = SELF
) -> list[Figure]:
    """AUC with its interval, and for SELF the precision among as many first samples as were planted; arrays are [N]."""
    count = int(planted.sum())
    if score != SELF:
        return [Figure.of(method, f"{score} AUC", bootstrap_auc(scores, planted, "outliers"), count, value)]
    precision = precision_at(scores, planted, count)
    return [
        Figure.of(method, "AUC", bootstrap_auc(scores, planted, "outliers"), count, value),
        Figure.of(method, "precision", _proportion(precision, count), count, value),
    ]


def sample_scores(evaluated: EvaluatedRun, name: str, neighbours: float) -> Scores:
    """An estimator's scores of every sample, float64[N] each, higher for a stranger one."""
    own, support = received(evaluated, name)
    return {SELF: own, SUPPORT: -support, ISOLATION: isolation(evaluated, name, neighbours)}


def sample_baselines(evaluated: EvaluatedRun) -> dict[str, NDArray[np.float64]]:
    """What one can say of a sample without attribution, float64[N] each: the last checkpoint's mean loss and norm."""
    last = evaluated.store.plan.checkpoint_names[-1]
    return {
        LOSS: evaluated.store.losses(last).mean(1, dtype=np.float64),
        NORM: evaluated.store.norms(last).mean(1, dtype=np.float64),
    }


def planted_samples(evaluated: EvaluatedRun, planted: dict[str, tuple[str, ...]]) -> dict[str, NDArray[np.bool_]]:
    """By value, which samples are marked: bool[N]. Values that no sample has are left out.

    Raises ConfigError when none is left, or a value marks every sample.
    """
    samples = evaluated.training_set.samples
    found = {}
    for name, values in planted.items():
        held = np.array([sample.groups.get(name, "") for sample in samples])
        for value in values:
            marked = held == value
            if marked.all():
                raise ConfigError(f"every image has the group {name}={value}; mark only what was planted")
            if marked.any():
                found[value] = marked
    if not found:
        asked = ", ".join(f"{name}={value}" for name, values in planted.items() for value in values)
        offered = ", ".join(evaluated.training_set.group_names) or "no group"
        raise ConfigError(f"no image of {evaluated.run.folder} has {asked}; its images have {offered}")
    return found


def _proportion(share: float, count: int) -> Interval:
    """Wilson's interval of a share of `count`."""
    z2 = 1.959963984540054**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = np.sqrt(z2 * share * (1 - share) / count + z2 * z2 / (4 * count**2)) / (1 + z2 / count)
    return Interval(share, float(middle - half), float(middle + half))


def _details(evaluated: EvaluatedRun, scores: dict[str, Scores], marks: dict[str, NDArray[np.bool_]]) -> pa.Table:
    """One row for each sample: what it was planted as, and every method's scores, higher for a stranger sample."""
    planted: Sequence[str] = [
        next((value for value, marked in marks.items() if marked[row]), "")
        for row in range(len(evaluated.training_set))
    ]
    ids = [sample.id for sample in evaluated.training_set.samples]
    columns = {
        method if score == SELF else f"{method} {score}": found
        for method, by_score in scores.items()
        for score, found in by_score.items()
    }
    return pa.table({"sample_id": ids, "planted": planted, **columns})
