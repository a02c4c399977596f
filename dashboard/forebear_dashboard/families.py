"""Families of training images: those that a chain of near pairs joins, to be judged together."""

from collections.abc import Sequence

import streamlit as st

from forebear_dashboard.audit_views import Found, compared_by, ticked_list
from forebear_dashboard.text import counted
from forebear_serve.audit_schemas import Duplicate
from forebear_serve.client import Client
from forebear_serve.schemas import SampleInfo

MOST_PAIRS, FEW_PAIRS, STEP = 500, 50, 10
SHOWN = 12
"""Families on the page, the largest first."""


def families(client: Client, estimator: str) -> None:
    """The nearest pairs, joined where they share an image."""
    measure, asked = compared_by(estimator)
    total = client.duplicates(measure, estimator=asked, limit=1).total
    most = min(MOST_PAIRS, total)
    if most <= STEP:
        taken = most
    else:
        taken = st.slider(
            "Nearest pairs that are joined", STEP, most, min(FEW_PAIRS, most), key="pairs", bind="query-params"
        )
    pairs = client.duplicates(measure, estimator=asked, limit=max(1, taken)).duplicates
    joined = joined_families(pairs)
    last = f"; the last one is {pairs[-1].value:.3g} apart" if pairs and measure != "gradient" else ""
    more = f", the {SHOWN} largest shown" if len(joined) > SHOWN else ""
    st.caption(
        f"{counted(len(joined), 'family', 'families')} of {counted(sum(map(len, joined)), 'image', 'images')} from the "
        f"{counted(len(pairs), 'nearest pair', 'nearest pairs')}{last}{more}. More pairs join more distant relatives."
    )
    found = [
        tuple(
            Found(
                one,
                f"{place}: {len(family)} together",
                f"audit: family of {len(family)} by {measure}, with {others(family, one)}",
            )
            for one in family
        )
        for place, family in enumerate(joined[:SHOWN], 1)
    ]
    ticked_list(found, f"audit:families:{measure}:{asked}:{taken}")


def others(family: Sequence[SampleInfo], one: SampleInfo, most: int = 3) -> str:
    """Ids of the rest of its family, for a note."""
    rest = [other.id for other in family if other.id != one.id]
    return ", ".join(rest[:most]) + (f" and {len(rest) - most} more" if len(rest) > most else "")


def joined_families(pairs: Sequence[Duplicate]) -> list[list[SampleInfo]]:
    """Images that pairs join, directly or over others: the largest families first, then those of the nearest pair."""
    family: dict[str, list[SampleInfo]] = {}
    for pair in pairs:
        first = family.setdefault(pair.first.id, [pair.first])
        second = family.setdefault(pair.second.id, [pair.second])
        if first is not second:
            first.extend(second)
            family.update(dict.fromkeys((one.id for one in second), first))
    return sorted({id(one): one for one in family.values()}.values(), key=len, reverse=True)
