"""What an evaluation found: figures with intervals, and the facts they rest on, in RUN/evaluation/NAME."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forebear.errors import ConfigError, StoreError
from forebear.evaluation.ground_truth import evaluation_folder
from forebear.evaluation.metrics import Interval, bootstrap_mean
from forebear.files import read_json, whole_file, write_json
from forebear.run import Run
from forebear.version import __version__

Kind = Literal["lds", "specificity", "tracing", "outliers", "removal", "families", "quantization", "cow"]
KINDS: tuple[Kind, ...] = get_args(Kind)

RESULT, FIGURES, DETAILS = "result.json", "figures.parquet", "details.parquet"

SCHEMA = pa.schema(
    [
        ("evaluation", pa.string()),
        ("kind", pa.string()),
        ("estimator", pa.string()),
        ("metric", pa.string()),
        ("variant", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("count", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Figure:
    """One number of one estimator."""

    estimator: str
    metric: str
    variant: str
    """Under what condition, such as the transform of `tracing`; empty where there is one alone."""
    value: float
    low: float
    """The ends of the 95 % interval; NaN where there is none."""
    high: float
    count: int
    """Units, most often queries, that the interval is over."""

    @classmethod
    def of(cls, estimator: str, metric: str, interval: Interval, count: int, variant: str = "") -> "Figure":
        return cls(estimator, metric, variant, interval.value, interval.low, interval.high, count)

    @classmethod
    def mean(cls, estimator: str, metric: str, values: NDArray[np.floating], variant: str = "") -> "Figure":
        """The mean of one value for each query, bootstrapped over queries in the same way for every estimator."""
        return cls.of(estimator, metric, bootstrap_mean(values, metric, variant), len(values), variant)


@dataclass(frozen=True)
class Result:
    """What one evaluation of a run found."""

    kind: Kind
    name: str
    """Of its folder."""
    settings: Mapping[str, Any]
    """The configuration, as plain values."""
    figures: tuple[Figure, ...]
    facts: Mapping[str, Any]
    """JSON-like: what was evaluated, costs, and what the report draws."""
    forebear_version: str = __version__

    def value(self, estimator: str, metric: str, variant: str = "") -> Figure:
        """One figure; raises ConfigError when it is not there."""
        for figure in self.figures:
            if (figure.estimator, figure.metric, figure.variant) == (estimator, metric, variant):
                return figure
        raise ConfigError(f"the evaluation {self.name} has no {metric} of {estimator} {variant}; evaluate it first")


def write_result(run: Run, result: Result, details: pa.Table | None = None) -> None:
    """Write the folder RUN/evaluation/NAME; the JSON last, so that it is there only when all is."""
    folder = evaluation_folder(run, result.name)
    if details is not None:
        with whole_file(folder / DETAILS) as part:
            pq.write_table(details, part)
    with whole_file(folder / FIGURES) as part:
        pq.write_table(figures_table([result]), part)
    write_json(folder / RESULT, _finite({**asdict(result), "figures": [asdict(figure) for figure in result.figures]}))


def read_result(folder: Path) -> Result:
    """Raises StoreError when the folder holds none or it is damaged."""
    path = folder / RESULT
    remedy = "run the evaluation again"
    values = read_json(path, StoreError, remedy)
    try:
        figures = tuple(_figure(figure) for figure in values["figures"])
        return Result(**{**{one.name: values[one.name] for one in fields(Result)}, "figures": figures})
    except (KeyError, TypeError) as broken:
        raise StoreError(f"{path} is not the result of an evaluation by this Forebear ({broken}); {remedy}") from None


def read_results(run: Run) -> list[Result]:
    """Every result of a run, by kind and name; raises ConfigError when there is none."""
    folders = sorted(path.parent for path in (run.folder / "evaluation").glob(f"*/{RESULT}"))
    if not folders:
        raise ConfigError(
            f"{run.folder} has no evaluation yet; run one of `forebear evaluate {'|'.join(KINDS)} --run {run.folder}`"
        )
    return sorted((read_result(folder) for folder in folders), key=lambda one: (KINDS.index(one.kind), one.name))


def figures_table(results: Sequence[Result]) -> pa.Table:
    """One row for each figure."""
    rows = [
        {"evaluation": result.name, "kind": result.kind, **asdict(figure)}
        for result in results
        for figure in result.figures
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def check_name(name: str) -> str:
    """A name that can be a folder; raises ConfigError."""
    if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise ConfigError(f"{name!r} cannot name an evaluation; use letters, digits, `-`, `_` and `.`")
    if name == "queries":
        raise ConfigError("the name `queries` is taken by the embedded queries of all evaluations; choose another")
    return name


def _figure(values: dict[str, Any]) -> Figure:
    numbers = {name: np.nan if values[name] is None else float(values[name]) for name in ("value", "low", "high")}
    return Figure(values["estimator"], values["metric"], values["variant"], **numbers, count=values["count"])


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
