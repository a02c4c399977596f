"""Page: trace a picture of your own, or a training image."""

import io

import streamlit as st
from PIL import Image

from forebear_dashboard import answers, asking, cards, scopes, session
from forebear_dashboard.answers import Question, Subject
from forebear_dashboard.samples import SampleFilter, sample_page
from forebear_dashboard.text import plain
from forebear_dashboard.thumbnails import thumbnails
from forebear_dashboard.traced_view import show_answer
from forebear_serve.client import Client
from forebear_serve.database import Scope

PAGE = "trace"
FOUND = 12
KINDS = ("png", "jpg", "jpeg", "webp")


def main() -> None:
    client = session.client()
    st.title("Trace an image")
    st.caption("Which training images does a picture of yours, or one of the training images, resemble to the model?")
    if scopes.told_missing(Scope.GENERATE):
        return
    conditioning = asking.generators(client)[0].conditioning
    upload, pick = st.tabs(["Upload a picture", "Pick a training image"])
    with st.expander("Settings"):
        question = asking.question(client)
    with upload:
        _upload(client, conditioning, question)
    with pick:
        _pick(client)
    tracing = st.empty()  # always there, as on the page that generates
    with tracing.container():
        _linked(client, question)
    tracing.empty()
    if answers.kept(PAGE) is None:
        st.info(
            "Upload a picture, or pick a training image: its ancestors appear here. A training image should find "
            "itself first; when it does not, look at its caption."
        )
    show_answer(PAGE)


def _upload(client: Client, conditioning: str, question: Question) -> None:
    with st.form("trace", border=False):
        file = st.file_uploader("Picture: PNG, JPEG or WebP", type=list(KINDS), key="trace:file")
        prompt, label = asking.prompt_or_label(conditioning, "what the picture shows")
        asked = st.form_submit_button("Trace it", type="primary")
    if not asked:
        return
    if file is None:
        st.warning("Choose a picture first.")
        return
    with st.spinner("Tracing"):
        info = client.upload(file.getvalue())
        png = _png(client.picture_image(info.id))
        answers.keep(PAGE, answers.ask(client, Subject(info, png, prompt, label), question))
    st.query_params.pop("sample", None)
    st.query_params["picture"] = info.id


def _pick(client: Client) -> None:
    """A choice puts the image into the page's address, from which it is traced."""
    text = st.text_input("Caption or id contains", key="trace:text", max_chars=200, placeholder="heart")
    page = sample_page(client, SampleFilter(text.strip()), FOUND, "trace:page")
    if not page.samples:
        st.info("No training image is like this. Shorten the text.")
    pictures = thumbnails(one.id for one in page.samples)
    with st.grid(min_column_width=110, gap="xsmall"):
        for one in page.samples:
            with cards.card(f"pick:{one.id}"):
                st.html(cards.picture(pictures[one.id], one.caption, one.id))
                st.button(
                    f"Trace {plain(one.caption or one.id)}",
                    key=f"trace:pick:{one.id}",
                    type="tertiary",
                    wrap=False,
                    on_click=_link,
                    args=(one.id,),
                )


def _link(sample_id: str) -> None:
    st.query_params.pop("picture", None)
    st.query_params["sample"] = sample_id


def _linked(client: Client, question: Question) -> None:
    """Trace what the page's address names, when that is not what is shown."""
    sample_id, picture_id = st.query_params.get("sample"), st.query_params.get("picture")
    kept = answers.kept(PAGE)
    wanted = sample_id or picture_id
    if not wanted or (kept is not None and kept.subject.source.id == wanted and kept.question == question):
        return
    with st.spinner("Tracing"):
        if sample_id:
            sample = client.sample(sample_id)
            png = _png(client.sample_image(sample_id, cards.INSPECTED_SIDE))
            subject = Subject(sample, png, sample.caption, sample.label)
        else:
            info = client.picture(wanted)
            prompt = kept.subject.prompt if kept is not None and kept.subject.source.id == wanted else info.prompt
            subject = Subject(info, _png(client.picture_image(wanted)), prompt, info.label)
        answers.keep(PAGE, answers.ask(client, subject, question))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


main()
