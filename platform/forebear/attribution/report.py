"""Writes answers as one HTML page that holds its own pictures and asks the network for nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from forebear.attribution.answer import Attribution, Fingerprint
from forebear.attribution.report_views import ReportEntry, copy_views, group_tables, overlap, region_columns
from forebear.data import TrainingSet
from forebear.errors import ConfigError
from forebear.files import write_text
from forebear.images import data_uri, on_white
from forebear.store import SIGN

CARD_PIXELS, QUERY_PIXELS = 96, 256
"""Larger pictures are reduced to this side; smaller ones are enlarged by the page, without smoothing."""
CARD_GROUPS = ("licence", "author")
"""Columns that cards name by themselves, not among the groups."""


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
        statistics=_first([answer.group_statistics for answer in answers]),
        calibration=_first([answer.calibration for answer in answers]),
        memorisation=_first([answer.memorisation for answer in answers]),
        sign=SIGN,
        copies=copy_views,
        columns=region_columns,
        group_tables=group_tables,
        overlap=overlap,
        card_groups=CARD_GROUPS,
    )
    write_text(path, page)


def _cards(answers: Sequence[Attribution], training_set: TrainingSet) -> Mapping[int, str]:
    """The picture of every training sample on the page as a data address, by row."""
    rows = {influence.row for answer in answers for influence in (*answer.proponents, *answer.opponents)}
    rows |= {one.row for answer in answers if answer.memorisation for one in answer.memorisation.nearest}
    return {row: data_uri(_reduced(training_set.picture(row, CARD_PIXELS), CARD_PIXELS)) for row in sorted(rows)}


def _reduced(picture: Image.Image, side: int) -> Image.Image:
    small = on_white(picture)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _distinct(fingerprints: Sequence[Fingerprint]) -> list[Fingerprint]:
    return list(dict.fromkeys(fingerprints))


def _first(found: Sequence[Any]) -> Any:
    """The first that is there: one audit made them all."""
    return next((one for one in found if one is not None), None)
