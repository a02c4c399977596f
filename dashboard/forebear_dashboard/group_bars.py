"""Groups of training images: each one's share of the influence beside its share of the data."""

from collections.abc import Sequence

import streamlit as st

from forebear.attribution import Attribution, GroupTotal
from forebear_dashboard.text import escaped, percent, plain

SHOWN = 8
"""Groups of a column with the highest totals."""


def show_groups(answer: Attribution, key: str) -> None:
    """A table with bars for one column at a time."""
    columns = {name: totals for name, totals in answer.group_totals.items() if len(totals) > 1}
    alike = [(name, totals[0]) for name, totals in answer.group_totals.items() if len(totals) == 1]
    if not columns and not alike:
        st.info("The training images have no groups. Name some in the data set's settings (`group_columns`).")
        return
    if columns:
        name = st.selectbox("Group by", list(columns), key=f"{key}:column", width=260)
        st.html(group_table(name, columns[name], tested=answer.group_statistics is not None))
        st.caption(_explained(answer))
    for name, only in alike:
        st.caption(f"All {only.samples:,} images have {plain(name)} “{plain(only.value or 'none')}”.")


def group_table(name: str, totals: Sequence[GroupTotal], *, tested: bool) -> str:
    """HTML: a filled bar for the share of influence, a line across it where the share of the data lies."""
    widest = max([*(one.positive_share for one in totals[:SHOWN]), *(one.data_share for one in totals[:SHOWN]), 1e-9])
    rows = "".join(_row(one, widest, tested) for one in totals[:SHOWN])
    more = len(totals) - SHOWN
    left = f"; {more:,} more below these" if more > 0 else ""
    p = '<th scope="col" class="fb-number">p</th>' if tested else ""
    return (
        '<div class="fb-scroll"><table class="fb-groups">'
        f"<caption>{escaped(name)}: highest total influence first{left}</caption>"
        '<thead><tr><th scope="col">group</th><th scope="col">share of influence, | expected</th>'
        '<th scope="col" class="fb-number">share</th><th scope="col" class="fb-number">expected</th>'
        f'<th scope="col" class="fb-number">ratio</th>{p}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _row(one: GroupTotal, widest: float, tested: bool) -> str:
    value = escaped(one.value or "none")
    bar = (
        f'<div class="fb-bar" role="img" aria-label="{percent(one.positive_share)} of the influence, '
        f'{percent(one.data_share)} expected"><i style="width:{100 * one.positive_share / widest:.1f}%"></i>'
        f'<u style="left:{100 * one.data_share / widest:.1f}%"></u></div>'
    )
    interval = ""
    if one.share_interval is not None:
        low, high = one.share_interval
        interval = f' title="95 % interval over timesteps: {percent(low)} to {percent(high)}"'
    p = f'<td class="fb-number">{_probability(one)}</td>' if tested else ""
    return (
        f'<tr><th scope="row">{value}</th><td style="width:40%">{bar}</td>'
        f'<td class="fb-number"{interval}>{percent(one.positive_share)}</td>'
        f'<td class="fb-number">{percent(one.data_share)}</td><td class="fb-number">{one.ratio:.1f}×</td>{p}</tr>'
    )


def _probability(one: GroupTotal) -> str:
    if one.p_value is None:
        return "–"
    adjusted = "" if one.adjusted_p_value is None else f" ({one.adjusted_p_value:.3f} adjusted)"
    return f"{one.p_value:.4f}{adjusted}"


def _explained(answer: Attribution) -> str:
    words = (
        "Share: the group's part of all positive influence. Expected: its part of the images. Ratio: the one over the "
        "other."
    )
    tested = answer.group_statistics
    if tested is None:
        return f"{words} Trace in exact mode for intervals and p-values."
    return (
        f"{words} p: how often a group of this size has at least this share by chance ({tested.permutations:,} "
        "shuffles of labels); adjusted for the number of groups (Benjamini and Hochberg). A small p says that the "
        "group's images score high, not why."
    )
