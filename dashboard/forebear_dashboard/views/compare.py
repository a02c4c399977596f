"""Page: the same prompt and seeds by several generators, and whether their pictures have the same ancestors."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from forebear_dashboard import asking, scopes, session
from forebear_dashboard.answers import enlarged
from forebear_dashboard.text import percent, plain, seconds
from forebear_dashboard.thumbnails import thumbnails
from forebear_serve.client import Client
from forebear_serve.database import Scope
from forebear_serve.schemas import AttributeOptions, Generated

ANSWERS = "compare:answers"
MOST_SEEDS = 4
TOP = 12
"""Proponents that are compared."""
SHOWN = 4
SIDE = 256

Answers = Mapping[tuple[str, int], Generated]


def main() -> None:
    client = session.client()
    st.title("Compare generators")
    st.caption("The same prompt and seeds by several variants of the model: pictures, times, and shared ancestors.")
    if scopes.told_missing(Scope.GENERATE):
        return
    known = {one.name: one for one in asking.generators(client)}
    if len(known) < 2:
        st.info(
            "This server has one generator. Serve more of them side by side: `forebear quantize` makes one, and "
            "`forebear serve --generator fp32= --generator w8a8=FOLDER` serves both."
        )
    first = next(iter(known.values()))
    with st.form("compare"):
        prompt, label = asking.prompt_or_label(first.conditioning, "such as: red heart")
        names = st.multiselect(
            "Generators, the first one is compared with", list(known), default=list(known)[:3], key="compare:generators"
        )
        with st.container(horizontal=True):
            seed = st.number_input("First seed", 0, 2**53 - 1, 0, step=1, key="seed", bind="query-params", width=180)
            steps = st.number_input(
                "Steps (0: each generator's own)", 0, 1000, 0, step=1, key="steps", bind="query-params", width=260
            )
            count = st.slider("Seeds", 1, MOST_SEEDS, 2, key="compare:count", width=260)
        asked = st.form_submit_button("Compare", type="primary")
    if asked and not names:
        st.warning("Choose a generator first.")
    elif asked:
        st.session_state[ANSWERS] = _asked(
            client, names, range(seed, seed + count), {"prompt": prompt, "label": label, "steps": steps or None}
        )
    answers: Answers | None = st.session_state.get(ANSWERS)
    if answers is None:
        st.info("Every generator makes a picture from each seed. Where it is the same picture, ancestors should agree.")
        return
    _shown(answers)


def _asked(client: Client, names: Sequence[str], seeds: range, request: dict[str, Any]) -> Answers:
    options, found = AttributeOptions(top_k=TOP), dict[tuple[str, int], Generated]()
    bar, total = st.progress(0.0, "Asking for the pictures"), len(names) * len(seeds)
    for seed in seeds:
        for name in names:
            bar.progress(len(found) / total, f"{plain(name)}, seed {seed}")
            found[name, seed] = client.generate(attribute=options, generator=name, seed=seed, **request)
    bar.empty()
    return found


def _shown(answers: Answers) -> None:
    names = list(dict.fromkeys(name for name, _ in answers))
    seeds = list(dict.fromkeys(seed for _, seed in answers))
    _summary(answers, names, seeds)
    pictures = thumbnails(one for answer in answers.values() for one in _proponents(answer)[:SHOWN])
    for seed in seeds:
        st.subheader(f"Seed {seed}")
        for column, name in zip(st.columns(len(names), gap="medium"), names, strict=True):
            with column:
                _picture(answers[name, seed], answers[names[0], seed], name, pictures)


def _summary(answers: Answers, names: Sequence[str], seeds: Sequence[int]) -> None:
    rows = []
    for name in names:
        shared = [_shared(answers[name, seed], answers[names[0], seed]) for seed in seeds]
        times = [answers[name, seed].timings.stages.get("generate", 0.0) for seed in seeds]
        rows.append(
            {
                "generator": name,
                f"of the first {TOP} proponents shared with {names[0]}": sum(shared) / len(shared),
                "seconds a picture (0: made before)": sum(times) / len(times),
            }
        )
    st.dataframe(
        rows,
        hide_index=True,
        column_config={key: st.column_config.NumberColumn(key, format="percent") for key in list(rows[0])[1:2]},
    )


def _picture(answer: Generated, reference: Generated, name: str, pictures: Mapping[str, bytes | None]) -> None:
    png = enlarged(base64.b64decode(answer.picture.png), side=SIDE)
    st.image(png, width=SIDE, output_format="PNG", alt=f"The picture of {name}")
    same = "" if answer is reference else f", shares {percent(_shared(answer, reference))} of its first {TOP}"
    time = answer.timings.stages.get("generate", 0.0)
    st.markdown(f"**{plain(name)}**: {seconds(time)}{plain(same)}")
    with st.container(horizontal=True, gap="xsmall"):
        for one in _proponents(answer)[:SHOWN]:
            small = pictures[one]
            if small is not None:
                st.image(small, width=56, output_format="PNG", alt=f"Training image {one}")
    st.page_link("views/generate.py", label="Its ancestors", query_params={"picture": answer.picture.id})


def _proponents(answer: Generated) -> list[str]:
    return [] if answer.traced is None else [one.sample_id for one in answer.traced.attributions[0].proponents]


def _shared(answer: Generated, reference: Generated) -> float:
    """Part of the reference's first proponents that are the answer's too."""
    first = set(_proponents(reference))
    return len(first & set(_proponents(answer))) / max(1, len(first))


main()
