"""Are the proponents of a generated picture relatives of what it was asked to show?

A picture is made for a training sample's caption or label; a proponent is related when it shares one of that sample's
groups. For OpenMoji these are the family (one drawing in other skins and genders) and the Unicode subgroup.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, plain
from forebear.data import TrainingSet
from forebear.errors import ConfigError
from forebear.evaluation.asking import generated_queries, training_rows
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.figures import Figure, Result, check_name, write_result
from forebear.evaluation.metrics import top_rows
from forebear.run import Run

Count = Annotated[int, Field(ge=1)]
EXPECTED = "chance"
"""Stands in the place of an estimator: the share of relatives in the whole training set."""


@dataclass(frozen=True, config=STRICT)
class FamiliesConfig:
    """Which pictures are made, and who counts as a relative."""

    queries: Annotated[int, Field(ge=2)] = 40
    """Pictures, each for the caption and label of a training sample chosen by key."""
    top: Count = 10
    """Proponents of each that are looked at."""
    groups: tuple[str, ...] = ("family", "subgroup")
    """A relative shares the value of one of these group columns."""
    unknown: tuple[str, ...] = ("", "unknown")
    """Values that are shared by chance and make no relatives."""
    estimators: tuple[str, ...] = ()
    """Empty: all that the store serves. The baselines `pixel` and `random` are always added."""
    seed: int = 0
    """Of the choice of samples, and of the first picture; the others count up."""
    steps: Count = 50
    """Of generated pictures."""
    guidance: float = 1.0
    """Of generated pictures."""


def run_families(run: Run, config: FamiliesConfig, name: str = "families") -> Result:
    """Evaluate and write RUN/evaluation/NAME. Embedded queries are kept: the same call goes on where it stopped.

    Raises ConfigError when the training set has none of the groups, or fewer images than queries, and what EvaluatedRun
    raises.
    """
    check_name(name)
    evaluated = EvaluatedRun.open(run)
    estimators = evaluated.estimators(config.estimators)
    rows = training_rows(evaluated, config.queries, "family prompts", config.seed)
    related = relatives(evaluated.training_set, rows, config.groups, config.unknown)
    asked = generated_queries(evaluated, rows, seed=config.seed, steps=config.steps, guidance=config.guidance)
    queries = evaluated.embed(asked, estimators)
    figures, details = [], []
    for estimator in estimators:
        top = top_rows(evaluated.scores(estimator, queries), config.top)
        shares = np.take_along_axis(related, top, 1).mean(1)
        figures.append(Figure.mean(estimator, f"related in top {config.top}", shares))
        details.append(
            pa.table(
                {
                    "estimator": [estimator] * len(rows),
                    "query": [one.id for one in asked],
                    "caption": [one.caption for one in asked],
                    "related": shares,
                }
            )
        )
    figures.append(Figure.mean(EXPECTED, f"related in top {config.top}", related.mean(1)))
    result = Result("families", name, plain(config), tuple(figures), evaluated.facts(queries, estimators))
    write_result(run, result, pa.concat_tables(details))
    return result


def relatives(
    training_set: TrainingSet, rows: Sequence[int], groups: Sequence[str], unknown: Sequence[str]
) -> NDArray[np.bool_]:
    """Which samples share one of the groups with each row, itself among them: bool[len(rows), N].

    Raises ConfigError when no sample has any of the groups.
    """
    held = [name for name in groups if name in training_set.group_names]
    if not held:
        offered = ", ".join(training_set.group_names) or "none"
        raise ConfigError(f"no training image has the groups {', '.join(groups)}; choose among: {offered}")
    found = np.zeros((len(rows), len(training_set)), np.bool_)
    for name in held:
        values = np.array([sample.groups.get(name, "") for sample in training_set.samples])
        known = ~np.isin(values, list(unknown))
        found |= (values[list(rows)][:, None] == values) & known
    return found
