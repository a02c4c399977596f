"""Writes answers as one HTML page that holds its own pictures and asks the network for nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from forebear.attribution.answer import Attribution, Fingerprint, GroupTotal
from forebear.data import TrainingSet
from forebear.errors import ConfigError
from forebear.files import write_text
from forebear.images import data_uri, on_white
from forebear.store import SIGN

CARD_PIXELS, QUERY_PIXELS = 96, 256
"""Larger pictures are reduced to this side; smaller ones are enlarged by the page, without smoothing."""
GROUPS_SHOWN = 6
"""Groups listed for each column; the others are counted."""
CARD_GROUPS = ("licence", "author")
"""Columns that cards name by themselves, not among the groups."""


@dataclass(frozen=True)
class ReportEntry:
    """One query on the page, with the answers of any number of estimators."""

    picture: Image.Image
    title: str
    """The prompt, or the file's name."""
    attributions: Sequence[Attribution]


def write_report(path: Path, entries: Sequence[ReportEntry], training_set: TrainingSet) -> None:
    """Write the page, whole or not at all.

    Raises ConfigError when there is nothing to show, or when the answers are about other training images.
    """
    answers = [answer for entry in entries for answer in entry.attributions]
    if not answers:
        raise ConfigError("a report needs at least one query with at least one answer; attribute a picture first")
    if any(answer.fingerprint.dataset != training_set.fingerprint for answer in answers):
        raise ConfigError(
            "the answers are about other training images than those given; use the run's own training set"
        )
    environment = Environment(
        loader=PackageLoader("forebear.attribution"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        entries=entries,
        queries=[data_uri(_reduced(entry.picture, QUERY_PIXELS)) for entry in entries],
        cards=_cards(answers, training_set),
        fingerprints=_distinct([answer.fingerprint for answer in answers]),
        sign=SIGN,
        top_groups=top_groups,
        card_groups=CARD_GROUPS,
    )
    write_text(path, page)


def top_groups(attribution: Attribution) -> Mapping[str, tuple[tuple[GroupTotal, ...], int]]:
    """By column, its groups of the highest totals and how many more there are. Columns with one value say nothing."""
    return {
        name: (totals[:GROUPS_SHOWN], max(0, len(totals) - GROUPS_SHOWN))
        for name, totals in attribution.group_totals.items()
        if len(totals) > 1
    }


def _cards(answers: Sequence[Attribution], training_set: TrainingSet) -> Mapping[int, str]:
    """The picture of every training sample on the page as a data address, by row."""
    rows = {influence.row for answer in answers for influence in (*answer.proponents, *answer.opponents)}
    return {row: data_uri(_reduced(training_set.picture(row, CARD_PIXELS), CARD_PIXELS)) for row in sorted(rows)}


def _reduced(picture: Image.Image, side: int) -> Image.Image:
    small = on_white(picture)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _distinct(fingerprints: Sequence[Fingerprint]) -> list[Fingerprint]:
    return list(dict.fromkeys(fingerprints))
