"""The image that a picture was made around: its own share in the picture, and the ancestors of what it kept and of the
rest."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from forebear.images import to_png
from forebear_dashboard import answers, cards, session
from forebear_dashboard.ancestors import Chosen, show_ancestors
from forebear_dashboard.answers import Answer, Part, enlarged
from forebear_dashboard.canvas import Laid, laid_by_request
from forebear_dashboard.sending import send_form
from forebear_dashboard.text import escaped, percent, plain
from forebear_dashboard.told import errors_kept, errors_told
from forebear_serve.schemas import PictureInfo

KEPT, REST = "the kept area", "the rest"
SIDES = {
    KEPT: "what taught the model to predict it; its pixels are from your image",
    REST: "what the surroundings descend from",
}


def condition_of(answer: Answer) -> Laid | None:
    """What the picture was made around; None when it was made from noise, or not here."""
    source = answer.subject.source
    return laid_by_request(source.request, source.width) if isinstance(source, PictureInfo) else None


def show_condition(answer: Answer) -> None:
    """The image on its canvas, and how much of the picture it explains."""
    laid, source = condition_of(answer), answer.subject.source
    if laid is None or not isinstance(source, PictureInfo):
        return
    with st.expander("The image that it was made around", expanded=True):
        part = Part(KEPT, mask=to_png(laid.kept))
        st.image(
            enlarged(to_png(laid.canvas), part if 0 < laid.part < 1 else None),
            width=160,
            output_format="PNG",
            alt="The image on the canvas, the kept area outlined",
        )
        st.html(share_table(source.facts, laid.part))
        if source.facts.get("share") is not None:
            st.caption(
                "Shares of the model's loss on this picture: what the image explains of it in the kept area, and what "
                "is left to the model, that is, to the training images."
            )


def share_table(facts: Mapping[str, Any], kept: float) -> str:
    """HTML: the condition's share beside the training images', and how alike both are where it was kept."""
    bars = ""
    share = facts.get("share")
    if share is not None:
        rows = "".join(
            f'<tr><th scope="row">{name}</th><td style="width:45%"><div class="fb-bar" role="img" '
            f'aria-label="{name}: {percent(part)}"><i style="width:{100 * part:.1f}%"></i></div></td>'
            f'<td class="fb-number">{percent(part)}</td></tr>'
            for name, part in (("your image", share), ("training images", 1.0 - share))
        )
        bars = f'<table class="fb-groups"><caption>Where the picture comes from</caption><tbody>{rows}</tbody></table>'
    alike = facts.get("condition") or {}
    told = {
        "kept of the picture": percent(kept),
        "PSNR there": None if alike.get("psnr") is None else f"{alike['psnr']:.1f} dB",
        "SSIM there": _decimals(alike.get("ssim")),
        "correlation there": _decimals(alike.get("correlation")),
        "loss there explained": None if facts.get("explained") is None else percent(facts["explained"]),
    }
    lines = "".join(
        f'<tr><th scope="row">{name}</th><td class="fb-number">{escaped(value)}</td></tr>'
        for name, value in told.items()
        if value is not None
    )
    return f'{bars}<table class="fb-groups"><tbody>{lines}</tbody></table>'


def _decimals(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


@st.fragment
def show_sides(page: str, answer: Answer, laid: Laid) -> None:
    """Ancestors of the kept area beside those of the rest, asked for when they are wanted."""
    with errors_told():
        if laid.part >= 1.0:
            st.info("The image fills the whole picture, so there is no rest to tell it from.")
            return
        found: dict[str, Answer] | None = st.session_state.get(f"{page}:sides")
        current = found if found and next(iter(found.values())).subject is answer.subject else None
        st.caption("The same question about the area that was kept of your image, and about what was drawn around it.")
        if current is None:
            st.button("Trace both", type="primary", key=f"{page}:sides-asked", on_click=_ask, args=(page, answer, laid))
            return
        _side_by_side(page, current)


def _ask(page: str, answer: Answer, laid: Laid) -> None:
    """A callback, so that the button is gone when its answer is there."""
    masks = {KEPT: laid.kept, REST: laid.kept.point(lambda level: 255 - level)}
    with errors_kept():
        st.session_state[f"{page}:sides"] = {
            name: answers.ask(session.client(), answer.subject, answer.question, Part(name, mask=to_png(mask)))
            for name, mask in masks.items()
        }


def _side_by_side(page: str, sides: Mapping[str, Answer]) -> None:
    send, chosen = st.container(), list[Chosen]()
    for column, (name, one) in zip(st.columns(len(sides), gap="medium"), sides.items(), strict=True):
        with column:
            st.markdown(f"#### {plain(name.capitalize())}")
            st.caption(SIDES[name])
            st.image(one.shown(), width=120, output_format="PNG", alt=f"The picture, {name} outlined")
            first = one.traced.attributions[0]
            chosen += show_ancestors(first, f"{page}:sides:{name}", cards.NARROW_WIDTH)
    with send:
        send_form(f"{page}:sides", next(iter(sides.values())).subject, chosen)
