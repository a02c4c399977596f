"""What an attribution says: influences, group totals, how far to trust them, and where they come from.

This is the contract of every consumer (pages, exports, services): `Attribution.to_dict` is JSON-like and says its
`format_version`. Fields are added with a default; any other change raises the version.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from forebear.estimators import SIGN
from forebear.version import __version__

ANSWER_FORMAT = 1
"""Of `Attribution.to_dict`."""

HEADINGS = ("kind", "rank", "score", "percentile", "null percentile", "sample", "caption", "groups")
"""Of `Attribution.table`."""

Interval = tuple[float, float]
"""Lower and upper end."""


@dataclass(frozen=True)
class Influence:
    """One training sample's influence on a query."""

    rank: int
    """From 1: the highest score among proponents, the lowest among opponents."""
    sample_id: str
    row: int
    """Its position in the store, in the order of being added: that in the training set, unless it has grown."""
    score: float
    percentile: float
    """Percent of all samples with a lower score for this query, 0 to 100."""
    caption: str
    groups: Mapping[str, str]
    null_percentile: float | None = None
    """Percent of the scores that other queries give this sample which are lower, 0 to 100 (`Calibration`); None when
    the answer was not calibrated."""


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
    """Its part of all samples, 0 to 1: the mean of `positive_share` over random groups of this size, exactly."""
    rank: int
    """From 1: the highest total."""
    ratio: float
    """positive_share / data_share: 3.1 reads "3.1 times its share of the data"."""
    expected_total: float
    """The mean of `total` over random groups of this size, exactly."""
    total_interval: Interval | None = None
    """Of `total`, over the query's timesteps (`GroupStatistics`); None when there are too few of them."""
    share_interval: Interval | None = None
    """Of `positive_share`."""
    p_value: float | None = None
    """How often random groups of this size have at least this `positive_share`; never 0. None when not tested."""
    adjusted_p_value: float | None = None
    """p_value by Benjamini and Hochberg over the column's groups: the false discovery rate at which it is found."""


@dataclass(frozen=True)
class GroupStatistics:
    """How the intervals and p-values of an answer's groups were made."""

    level: float
    """Of the intervals: 0.95."""
    resamples: int
    """Bootstrap samples of the query's timesteps."""
    timesteps: int
    """How many there are to sample from."""
    permutations: int
    """Shuffles of the group labels over the samples."""
    seed: int


@dataclass(frozen=True)
class CalibrationRecord:
    """What `Influence.null_percentile` compares with."""

    references: int
    """Training images that stood for random queries."""
    seed: int
    """That chose them."""


@dataclass(frozen=True)
class NearestImage:
    """The training image that is nearest to the query by one measure."""

    measure: str
    """`pixel`, `shifted`, or an estimator's name."""
    description: str
    """The measure in one sentence."""
    row: int
    sample_id: str
    caption: str
    value: float
    similarity: bool
    """Whether a larger `value` is nearer; otherwise it is a distance."""
    threshold: float | None
    """The value from which the query is a near copy; None when there was nothing to compare with."""
    closer_than: float | None
    """Percent of the references that are farther from their own nearest neighbour, 0 to 100."""
    references: int
    """How many there were, those with an exact copy by this measure left out."""
    near_copy: bool


@dataclass(frozen=True)
class Memorisation:
    """Whether the query is a near copy of a training image."""

    near_copy: bool
    """By at least one measure."""
    nearest: tuple[NearestImage, ...]
    """By each measure."""
    references: int
    """Training images whose own nearest neighbours set the thresholds."""
    quantile: float
    """A near copy is nearer than this part of the references is to their own nearest neighbours: 0.01."""


@dataclass(frozen=True)
class RegionRecord:
    """The part of the query that the answer is about."""

    label: str
    share: float
    """Mean of the mask over the picture, 0 to 1."""
    box: tuple[int, int, int, int] | None
    """Left, top, right, bottom in pixels of the picture as it was given, when it is a box."""
    mask: str
    """The mask as the model sees it: the `data:` address of a grey picture, white inside."""


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
    region: RegionRecord | None = None
    """None: the whole picture."""
    band: tuple[int, int] | None = None
    """First and last timestep that were allowed; None: no restriction."""
    preliminary: tuple[str, ...] = ()
    """Checkpoints that measured an earlier sight of the picture, before it was final (`EmbeddedQuery.completed`)."""
    parameters: tuple[str, ...] = ()
    """Patterns of the parameters whose gradients alone were measured; none: all of the store's."""


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
    """That took part."""
    checkpoints: tuple[CheckpointRecord, ...]
    measurement: str
    forebear_version: str = __version__
    removed: int = 0
    """Samples that are in the store and were left out because they had been removed (`forebear store remove`)."""


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
    group_statistics: GroupStatistics | None = None
    """None: groups have totals and shares alone."""
    calibration: CalibrationRecord | None = None
    memorisation: Memorisation | None = None
    """None: not checked."""
    sign: str = field(default=SIGN)
    format_version: int = ANSWER_FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-like values."""
        return asdict(self)

    def table(self) -> list[tuple[str, ...]]:
        """Proponents, then opponents, as rows of text; the first row holds the headings."""
        rows: list[tuple[str, ...]] = [HEADINGS]
        for kind, influences in (("proponent", self.proponents), ("opponent", self.opponents)):
            for one in influences:
                groups = ", ".join(f"{name}: {value}" for name, value in one.groups.items())
                null = "" if one.null_percentile is None else f"{one.null_percentile:.1f}"
                numbers = (str(one.rank), f"{one.score:+.3g}", f"{one.percentile:.1f}", null)
                rows.append((kind, *numbers, one.sample_id, one.caption, groups))
        return rows
