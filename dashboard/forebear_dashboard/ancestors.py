"""The training images of an answer as two grids: those that helped the model make the picture, and those against."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from forebear.attribution import Attribution, Influence
from forebear_dashboard import cards
from forebear_dashboard.text import escaped, score
from forebear_dashboard.thumbnails import thumbnails

SIDES = {
    "proponents": ("▲", "Proponents", "training on these lowered the model's loss on the picture"),
    "opponents": ("▼", "Opponents", "training on these raised it"),
}
"""Mark, heading and meaning: the mark stands before every rank, so that no sign is told by place or colour alone."""


@dataclass(frozen=True)
class Chosen:
    """An ancestor that was ticked for review."""

    influence: Influence
    answer: Attribution


def show_ancestors(answer: Attribution, key: str, width: int = cards.CARD_WIDTH) -> list[Chosen]:
    """Both grids, of cards of at least `width` pixels; returns what is ticked."""
    everyone = [*answer.proponents, *answer.opponents]
    pictures = thumbnails(one.sample_id for one in everyone)
    columns = cards.told_columns([one.groups for one in everyone])
    chosen = []
    largest = max((abs(one.score) for one in everyone), default=0.0) or 1.0
    for side, (mark, heading, meaning) in SIDES.items():
        influences: Sequence[Influence] = getattr(answer, side)
        st.markdown(f"##### {mark} {heading}: {meaning}")
        if not influences:
            st.caption("None: no image has a score of this sign.")
        with st.grid(min_column_width=width, gap="xsmall"):
            for one in influences:
                place = f"{key}:{answer.estimator}:{side}:{one.sample_id}"
                with cards.card(place):
                    st.html(
                        cards.picture(pictures[one.sample_id], one.caption, one.sample_id)
                        + influence_facts(one, f"{mark}{one.rank}", columns, largest)
                    )
                    if _ticked(one, f"{mark}{one.rank}", answer, place):
                        chosen.append(Chosen(one, answer))
    return chosen


def _ticked(one: Influence, place: str, answer: Attribution, key: str) -> bool:
    """What can be done with an image; returns whether it is ticked."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", gap="xxsmall"):
        ticked = st.checkbox(f"Review {place}", key=f"{key}:tick", on_change="ignore")
        if st.button("Inspect", key=f"{key}:inspect", type="tertiary"):
            cards.inspect(one.sample_id, influence_told(one, answer))
    return ticked


def influence_facts(one: Influence, place: str, columns: Sequence[str], largest: float) -> str:
    """Rank, score, percentiles, caption and groups as HTML; the bar is the score beside the `largest` one's size."""
    caption = escaped(one.caption or one.sample_id)
    groups = cards.group_lines(one.groups, columns, one.caption)
    size = f"width:{100 * abs(one.score) / largest:.0f}%"
    unusual = ""
    if one.null_percentile is not None:
        unusual = f'<div class="fb-dim">of random queries {one.null_percentile:.1f}</div>'
    return (
        f'<div class="fb-facts"><div class="fb-line"><b>{place}</b> &nbsp;score <b>{score(one.score)}</b></div>'
        f'<div class="fb-bar fb-thin" aria-hidden="true"><i style="{size}"></i></div>'
        f'<div class="fb-dim">percentile {one.percentile:.1f}</div>{unusual}'
        f'<div class="fb-line" title="{caption}"><b>{caption}</b></div>{groups}</div>'
    )


def influence_told(one: Influence, answer: Attribution) -> dict[str, str]:
    """The same for the dialog, in words."""
    told = {
        "rank": f"{one.rank} by {answer.estimator}",
        "score": f"{one.score:+.6g}",
        "percentile of all images": f"{one.percentile:.2f}",
    }
    if one.null_percentile is not None:
        told["percentile of random queries"] = f"{one.null_percentile:.2f}"
    return told
