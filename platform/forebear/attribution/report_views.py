"""What the page shows of answers: bars to scale, regions side by side, the pictures that the query may be a copy of."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from forebear.attribution.answer import Attribution, GroupTotal, Memorisation, NearestImage
from forebear.attribution.region import marked
from forebear.images import data_uri

GROUPS_SHOWN = 6
"""Groups listed for each column; the others are counted."""
REGION_PIXELS = 192
SIGNIFICANT = 0.05
"""Adjusted p-values up to this are set in bold."""


@dataclass(frozen=True)
class ReportEntry:
    """One query on the page, with the answers of any number of estimators and regions."""

    picture: Image.Image
    title: str
    """The prompt, or the file's name."""
    attributions: Sequence[Attribution]


@dataclass(frozen=True)
class RegionColumn:
    """The whole picture, or one region of it, with an estimator's answer."""

    title: str
    picture: str
    """A data address."""
    attribution: Attribution


@dataclass(frozen=True)
class CopyView:
    """A training image that is nearest to the query by one or more measures."""

    row: int
    sample_id: str
    caption: str
    measures: tuple[NearestImage, ...]


@dataclass(frozen=True)
class GroupBar:
    """A group's row in its table; places are percent of the bar's length."""

    group: GroupTotal
    share: float
    expected: float
    interval: tuple[float, float] | None
    significant: bool


@dataclass(frozen=True)
class GroupTable:
    """The first groups of a column."""

    name: str
    bars: tuple[GroupBar, ...]
    more: int
    """Groups that are not listed."""
    end: float
    """The share at which bars end, 0 to 1."""


def region_columns(entry: ReportEntry) -> list[RegionColumn]:
    """The whole picture and the regions side by side, with answers of one estimator; empty without regions."""
    parts = [answer for answer in entry.attributions if answer.query.region is not None]
    if not parts:
        return []
    alike = [
        answer
        for answer in entry.attributions
        if answer.query.region is None and answer.estimator == parts[0].estimator
    ]
    whole = [RegionColumn("whole picture", data_uri(_square(entry.picture)), answer) for answer in alike[:1]]
    return whole + [
        RegionColumn(
            answer.query.region.label, data_uri(marked(entry.picture, answer.query.region, REGION_PIXELS)), answer
        )
        for answer in parts
        if answer.query.region is not None
    ]


def overlap(column: RegionColumn, other: RegionColumn) -> tuple[int, int]:
    """How many proponents two columns share, and of how many."""
    mine, theirs = ({one.row for one in each.attribution.proponents} for each in (column, other))
    return len(mine & theirs), len(mine)


def copy_views(found: Memorisation) -> list[CopyView]:
    """The nearest training images, each once, near copies first."""
    by_row: dict[int, list[NearestImage]] = {}
    for one in sorted(found.nearest, key=lambda one: not one.near_copy):
        by_row.setdefault(one.row, []).append(one)
    return [CopyView(row, ones[0].sample_id, ones[0].caption, tuple(ones)) for row, ones in by_row.items()]


def group_tables(attribution: Attribution) -> list[GroupTable]:
    """The groups of the highest totals in each column. Columns with one value say nothing and are left out."""
    return [_table(name, totals) for name, totals in attribution.group_totals.items() if len(totals) > 1]


def _table(name: str, totals: Sequence[GroupTotal]) -> GroupTable:
    shown = totals[:GROUPS_SHOWN]
    ends = [max(one.positive_share, one.data_share, (one.share_interval or (0.0, 0.0))[1]) for one in shown]
    end = max(ends) or 1.0
    bars = tuple(
        GroupBar(
            group=one,
            share=100 * one.positive_share / end,
            expected=100 * one.data_share / end,
            interval=None
            if one.share_interval is None
            else (100 * one.share_interval[0] / end, 100 * one.share_interval[1] / end),
            significant=one.adjusted_p_value is not None and one.adjusted_p_value <= SIGNIFICANT,
        )
        for one in shown
    )
    return GroupTable(name, bars, len(totals) - len(shown), end)


def _square(picture: Image.Image) -> Image.Image:
    small = picture.convert("RGB")
    small.thumbnail((REGION_PIXELS, REGION_PIXELS), Image.Resampling.LANCZOS)
    return small
