"""A traced picture on a page: the picture and how to ask further on the left, ancestors and groups on the right."""

import json
from collections.abc import Sequence

import streamlit as st

from forebear.attribution import Attribution, Memorisation, NearestImage
from forebear_dashboard import answers, cards, region, session
from forebear_dashboard.ancestors import Chosen, show_ancestors
from forebear_dashboard.answers import Answer
from forebear_dashboard.condition_view import condition_of, show_condition, show_sides
from forebear_dashboard.group_bars import show_groups
from forebear_dashboard.sending import send_form
from forebear_dashboard.text import escaped, plain, seconds
from forebear_dashboard.thumbnails import thumbnails
from forebear_dashboard.told import errors_told

PERCENT = 100


def show_answer(page: str) -> None:
    """What the page's session holds."""
    whole = answers.kept(page)
    if whole is None:
        return
    left, right = st.columns([1, 2.4], gap="medium")
    part = answers.kept(page, part=True)
    shown = part or whole
    with left, st.container(key="traced-picture"):
        _picture(shown)
        if part is None:
            show_condition(whole)
        with st.expander("Ask about a part, or noise levels", expanded=part is not None):
            asked = region.part_form(page, whole.subject)
        if asked is not None:
            with st.spinner("Tracing the part"):
                kind, band = asked
                answers.keep(page, answers.ask(session.client(), whole.subject, whole.question, kind, band))
            st.rerun()
    with right:
        if part is not None:
            st.info(f"About {region.part_told(part)}. “Whole picture” goes back.")
        _tabs(page, shown)


def _picture(answer: Answer) -> None:
    subject = answer.subject
    st.image(answer.shown(), width="stretch", output_format="PNG", alt=f"The picture that is traced: {subject.title}")
    memorisation = answer.traced.attributions[0].memorisation
    if memorisation is not None:
        _copies(memorisation)
    st.caption(_timings(answer))


def _copies(found: Memorisation) -> None:
    """The near-copy flag, and the nearest image by each measure."""
    if found.near_copy:
        st.warning("**Near copy** of a training image.", icon="⚠️")
    else:
        st.success("**No near copy** among the training images.", icon="✔️")
    with st.expander("Nearest training images"):
        pictures = thumbnails(one.sample_id for one in found.nearest)
        for one in found.nearest:
            st.html(nearest_facts(one, pictures[one.sample_id]))


def nearest_facts(one: NearestImage, png: bytes | None) -> str:
    """HTML: the image that is nearest by one measure, how near, and from where on it would be a near copy."""
    shown = ""
    if png is not None:
        shown = cards.png_html(png, cards.alt_text(one.caption, one.sample_id))
    limit = "" if one.threshold is None else f", a near copy from {one.threshold:.3g}"
    flag = "near copy" if one.near_copy else "not near enough"
    return (
        f'<div class="fb-near">{shown}<div><b>{escaped(one.caption or one.sample_id)}</b>: {flag}<br>'
        f'<span class="fb-dim">{escaped(one.description)}: {one.value:.3g}{limit}</span></div></div>'
    )


def _timings(answer: Answer) -> str:
    stages = {**answer.stages, **answer.traced.timings.stages}
    told = " · ".join(f"{name.replace('_', ' ')} {seconds(value)}" for name, value in stages.items() if value >= 0.001)
    return f"Answered {seconds(answer.waited)} after asking ({told})." if told else f"{seconds(answer.waited)}."


def _tabs(page: str, answer: Answer) -> None:
    names = [f"{plain(one.estimator)}" for one in answer.traced.attributions]
    laid = None if answer.part is not None else condition_of(answer)
    titles = ["Ancestors", "Groups", "How it was measured", *(["Kept area and rest"] if laid is not None else [])]
    ancestors, groups, method, *sides = st.tabs(titles)
    with ancestors:
        _ancestors(page, answer)
    with groups:
        for place, one, name in zip(_side_by_side(len(names)), answer.traced.attributions, names, strict=True):
            with place:
                _estimator_heading(one, len(names))
                show_groups(one, f"{page}:groups:{name}")
    for tab in sides:
        with tab:
            if laid is not None:
                show_sides(page, answer, laid)
    with method:
        for one in answer.traced.attributions:
            _method(one, answer)
        st.download_button(
            "Download the answer (JSON)",
            lambda: json.dumps([one.to_dict() for one in answer.traced.attributions], indent=1),
            file_name="attribution.json",
            mime="application/json",
            on_click="ignore",
            key=f"{page}:json",
        )


@st.fragment
def _ancestors(page: str, answer: Answer) -> None:
    """A fragment: ticking and inspecting draws the grids alone anew."""
    with errors_told():
        attributions = answer.traced.attributions
        send = st.container()
        chosen: list[Chosen] = []
        for place, one in zip(_side_by_side(len(attributions)), attributions, strict=True):
            with place:
                _estimator_heading(one, len(attributions))
                width = cards.CARD_WIDTH if len(attributions) == 1 else cards.NARROW_WIDTH
                chosen += show_ancestors(one, f"{page}:{answer.subject.source.id}", width)
        with send:
            send_form(page, answer.subject, chosen)


def _side_by_side(count: int) -> Sequence[st.delta_generator.DeltaGenerator]:
    return [st.container()] if count == 1 else st.columns(count, gap="medium")


def _estimator_heading(one: Attribution, of: int) -> None:
    if of > 1:
        st.markdown(f"#### {plain(one.estimator)}")
        st.caption(plain(one.description))


def _method(one: Attribution, answer: Answer) -> None:
    """What the numbers are and depend on."""
    query, print_ = one.query, one.fingerprint
    st.markdown(f"**{plain(one.estimator)}**: {plain(one.description)}")
    st.markdown(f"Sign: {plain(one.sign)}.")
    facts = {
        "mode": answer.traced.mode.value,
        "timesteps": ", ".join(map(str, query.timesteps)),
        "parameters": ", ".join(query.parameters) or "all that the store covers",
        "checkpoints": ", ".join(record.name for record in print_.checkpoints),
        "measured before the picture was final": ", ".join(answer.traced.preliminary) or "none",
        "measurement": print_.measurement,
        "training images": f"{print_.samples:,}" + (f" ({print_.removed:,} removed)" if print_.removed else ""),
        "run": print_.run,
        "store plan": print_.store_plan,
        "data set": print_.dataset,
        "Forebear": print_.forebear_version,
    }
    st.table({name: plain(value) for name, value in facts.items()}, border="horizontal")
