"""What an attribution says: influences, group totals, and where they come from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from forebear.store import SIGN
from forebear.version import __version__


@dataclass(frozen=True)
class Influence:
    """One training sample's influence on a query."""

    rank: int
    """From 1: the highest score among proponents, the lowest among opponents."""
    sample_id: str
    row: int
    """Its position in the training set."""
    score: float
    percentile: float
    """Percent of all samples with a lower score for this query, 0 to 100."""
    caption: str
    groups: Mapping[str, str]


@dataclass(frozen=True)
class GroupTotal:
    """All samples of one group taken together."""

    value: str
    """The group's value; empty for samples that have none."""
    samples: int
    total: float
    """Sum of the scores of all of its samples."""
    positive_share: float
    """Its part of the sum of all positive scores, 0 to 1."""
    data_share: float
    """Its part of all samples, 0 to 1: what `positive_share` would be if influence were spread evenly."""


@dataclass(frozen=True)
class QueryRecord:
    """How the query was measured."""

    caption: str
    label: int | None
    timesteps: tuple[int, ...]
    draws: int
    """Noises at each timestep."""
    seed: int
    """Of the noise, which is keyed as the training side's shared noise is."""
    losses: Mapping[str, tuple[float, ...]]
    """By checkpoint, the query's loss at each timestep."""


@dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint that took part."""

    name: str
    weights: str
    """Fingerprint of its weights."""
    weight: float
    """w_c, its factor in the score."""


@dataclass(frozen=True)
class Fingerprint:
    """What the numbers depend on."""

    run: str
    """Name of the run's folder."""
    store_plan: str
    dataset: str
    samples: int
    checkpoints: tuple[CheckpointRecord, ...]
    measurement: str
    forebear_version: str = __version__


@dataclass(frozen=True)
class Attribution:
    """An estimator's answer for one query."""

    estimator: str
    description: str
    """The estimator in one sentence."""
    proponents: tuple[Influence, ...]
    """Highest scores first."""
    opponents: tuple[Influence, ...]
    """Lowest scores first."""
    group_totals: Mapping[str, tuple[GroupTotal, ...]]
    """By group column, highest total first; exact sums over all samples."""
    query: QueryRecord
    fingerprint: Fingerprint
    seconds: Mapping[str, float]
    """Wall-clock time by stage: `embed` serves every estimator of a query, `score` this one."""
    sign: str = field(default=SIGN)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-like values."""
        return asdict(self)

    def table(self) -> list[tuple[str, ...]]:
        """Proponents, then opponents, as rows of text; the first row holds the headings."""
        rows: list[tuple[str, ...]] = [("kind", "rank", "score", "percentile", "sample", "caption", "groups")]
        for kind, influences in (("proponent", self.proponents), ("opponent", self.opponents)):
            for one in influences:
                groups = ", ".join(f"{name}: {value}" for name, value in one.groups.items())
                numbers = (str(one.rank), f"{one.score:+.3g}", f"{one.percentile:.1f}")
                rows.append((kind, *numbers, one.sample_id, one.caption, groups))
        return rows
