"""Page: make a picture and see which training images it descends from."""

import base64
import io
import time
from typing import Any

import streamlit as st
from PIL import Image

from forebear_dashboard import answers, asking, cards, scopes, session
from forebear_dashboard.answers import Answer, Question, Subject
from forebear_dashboard.around import around_panel, cow_options, starts_from_image
from forebear_dashboard.text import plain
from forebear_dashboard.thumbnails import thumbnails
from forebear_dashboard.traced_view import show_answer
from forebear_serve.client import Client
from forebear_serve.database import Scope
from forebear_serve.schemas import AttributeOptions, GeneratorInfo, Picture, PictureInfo, Progressed, Timings, Traced

PAGE = "generate"
PREVIEW_SIDE = 256
EXAMPLES = 6
KEPT_SECONDS = 300.0


def main() -> None:
    client = session.client()
    st.title("Generate and trace")
    st.caption("Make a picture, and see which training images it descends from.")
    if scopes.told_missing(Scope.GENERATE):
        return
    known = {one.name: one for one in asking.generators(client)}
    around = starts_from_image()
    if around:
        around_panel(PAGE, next(iter(known.values())).image_size)
    with st.form("generate", border=True):
        asked, question, submitted = _form(client, known)
    request = _around(asked) if submitted and around else asked
    # Always there: were what follows an element further down in the next run, expanders would close under the mouse.
    making = st.empty()
    with making.container():
        if submitted and request is not None:
            _make(client, request, question)
        shared = st.query_params.get("picture")
        kept = answers.kept(PAGE)
        if shared and (kept is None or kept.subject.picture_id != shared):
            _reopen(client, shared, question)
    making.empty()
    if answers.kept(PAGE) is None:
        _empty(client, next(iter(known.values())).conditioning)
    show_answer(PAGE)


def _form(client: Client, known: dict[str, GeneratorInfo]) -> tuple[dict[str, Any], Question, bool]:
    """The request, how to trace, and whether the button was pressed."""
    first = next(iter(known.values()))
    words, go = st.columns([4, 1.2], vertical_alignment="bottom")
    with words:
        prompt, label = asking.prompt_or_label(first.conditioning, "such as: red heart")
    with go:
        submitted = st.form_submit_button("Generate and trace", type="primary", width="stretch")
    with st.expander("Settings"):
        making, tracing = st.columns(2, gap="medium")
        with making:
            name = st.selectbox("Generator", list(known), key="generator", bind="query-params")
            seed = st.number_input(
                "Seed",
                0,
                2**53 - 1,
                0,
                step=1,
                key="seed",
                bind="query-params",
                help="The same seed, the same picture.",
            )
            steps = st.number_input(
                "Steps", 0, 1000, 0, step=1, key="steps", bind="query-params", help="0: the generator's own number."
            )
            guidance = st.slider(
                "Guidance", 1.0, 10.0, 1.0, step=0.5, key="guidance", bind="query-params", help="1 switches it off."
            )
        with tracing:
            question = asking.question(client)
    request = {
        "prompt": prompt,
        "label": label,
        "generator": name,
        "seed": int(seed),
        "steps": int(steps) or None,
        "guidance": float(guidance),
    }
    return request, question, submitted


def _around(request: dict[str, Any]) -> dict[str, Any] | None:
    """The request with the image that was chosen, in whose settings steps and guidance then are."""
    cow = cow_options()
    if cow is None:
        st.warning("Choose an image, and what is kept of it, first.")
        return None
    rest = {name: value for name, value in request.items() if name not in {"steps", "guidance"}}
    own = {"steps": request["steps"], "guidance": request["guidance"]}
    return rest | {"cow": {**cow, "settings": cow["settings"] | own}}


def _make(client: Client, request: dict[str, Any], question: Question) -> None:
    """Show the picture as it comes, then keep the answer; the page is drawn anew with it."""
    started = time.perf_counter()
    bar, place = st.progress(0.0, "Asking for the picture"), st.empty()
    picture: Picture | None = None
    traced: Traced | None = None
    stages: dict[str, float] = {}
    options = AttributeOptions(**question.options())
    for event in client.stream(attribute=options, **request):
        if isinstance(event, Progressed):
            bar.progress(event.done / max(event.total, 1), f"Step {event.done} of {event.total}")
            if event.preview:
                place.image(
                    _large(event.preview),
                    width=PREVIEW_SIDE,
                    output_format="PNG",
                    alt="The picture while it is being made",
                )
        elif isinstance(event, Picture):
            picture = event
            bar.progress(1.0, "The picture is there; tracing it")
            place.image(_large(event.png), width=PREVIEW_SIDE, output_format="PNG", alt="The picture that was made")
        elif isinstance(event, Traced):
            traced = event
        elif isinstance(event, Timings):
            stages = {name: value for name, value in event.stages.items() if name == "generate"}
    if picture is None or traced is None:
        st.error("The server ended its answer early. Generate again.")
        st.stop()
    info = PictureInfo(**picture.model_dump(exclude={"png", "cached"}))
    subject = Subject(info, base64.b64decode(picture.png), info.prompt, info.label)
    answers.keep(PAGE, Answer(subject, question, traced, time.perf_counter() - started, stages=stages))
    st.query_params["picture"] = info.id


def _reopen(client: Client, picture_id: str, question: Question) -> None:
    """A link names the picture: it is traced as the link says."""
    info = client.picture(picture_id)
    image = client.picture_image(picture_id)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    with st.spinner("Tracing the picture of this link"):
        subject = Subject(info, buffer.getvalue(), info.prompt, info.label)
        answers.keep(PAGE, answers.ask(client, subject, question))


def _empty(client: Client, conditioning: str) -> None:
    """What to do first, with prompts that the model knows."""
    st.info(
        "Say what to draw and press **Generate and trace**. Below it, the training images appear that made the model "
        "draw it so: tick those that you want judged, and find them in the review queue. The page's address repeats "
        "the picture: share it."
    )
    if conditioning != "text":
        return
    examples = _examples(client, session.asked_as())
    if not examples:
        return
    st.caption("Words of the training captions work best, such as those of these training images:")
    pictures = thumbnails(sample_id for sample_id, _ in examples)
    with st.grid(min_column_width=cards.CARD_WIDTH, gap="xsmall"):
        for sample_id, caption in examples:
            with cards.card(f"generate:example:{sample_id}"):
                st.html(cards.picture(pictures[sample_id], caption, sample_id))
                st.button(
                    plain(caption),
                    key=f"generate:example:{sample_id}",
                    type="tertiary",
                    wrap=False,
                    on_click=_take,
                    args=(caption,),
                )


@st.cache_data(ttl=KEPT_SECONDS, max_entries=32, show_spinner=False)
def _examples(_client: Client, asked_as: str) -> tuple[tuple[str, str], ...]:  # noqa: ARG001 - a key of the cache
    """Ids and captions from all over the data set: images that lie side by side are often alike."""
    total = _client.samples(limit=1).total
    places = sorted({total * (2 * number + 1) // (2 * EXAMPLES) for number in range(EXAMPLES)})
    found = [_client.samples(after=place - 1, limit=1).samples for place in places]
    return tuple((one.id, one.caption) for some in found for one in some if one.caption)


def _take(caption: str) -> None:
    st.session_state["prompt"] = caption


def _large(encoded: str) -> Image.Image:
    small = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    scale = max(1, PREVIEW_SIDE // max(small.size))
    return small.resize((small.width * scale, small.height * scale), Image.Resampling.NEAREST)


main()
