"""Page: what is served, and whether it works."""

import streamlit as st

from forebear_dashboard import asking, scopes, session
from forebear_dashboard.text import plain
from forebear_dashboard.told import errors_told
from forebear_serve.database import Scope
from forebear_serve.schemas import Health, IndexInfo

EVERY = 10.0
"""Seconds between looks at the health."""
STATES = {
    "ok": ("✔️", "All parts answer."),
    "starting": ("⏳", "Some parts are starting."),
    "degraded": ("⚠️", "A part does not answer: see below, and the server's log."),
}


def main() -> None:
    client = session.client()
    st.title("Runs and health")
    st.caption("What answers rest on, and whether every part of the service works.")
    _health()
    index = client.index()
    _index(index)
    _indexes(index)
    _generators()
    _jobs()


@st.fragment(run_every=EVERY)
def _health() -> None:
    with errors_told():
        found: Health = session.client().health()
        icon, words = STATES[found.status]
        st.subheader("Health")
        st.markdown(f"{icon} **{found.status}**. {words} Looked at every {EVERY:.0f} s.")
        rows = [{"part": name, "state": state} for name, state in found.parts.items()]
        st.dataframe(rows, hide_index=True, width="stretch")


def _index(index: IndexInfo) -> None:
    st.subheader(f"Run {plain(index.run)}")
    with st.grid(min_column_width=150):
        st.metric("Training images", f"{index.samples:,}")
        st.metric("Removed", f"{index.removed:,}")
        st.metric("Checkpoints", len(index.checkpoints))
        st.metric("Timesteps", len(index.timesteps))
    facts = {
        "measurement": index.measurement,
        "sign": index.sign,
        "checkpoints": ", ".join(index.checkpoints),
        "timesteps": ", ".join(map(str, index.timesteps)),
        "store plan": index.store_plan,
        "data set": index.dataset,
        "Forebear": index.version,
    }
    st.table({name: plain(value) for name, value in facts.items()}, border="horizontal")


def _indexes(index: IndexInfo) -> None:
    st.subheader("Indexes")
    st.caption("Recall: the part of the true nearest that a search finds. An exact index finds all.")
    rows = []
    for name, facts in index.indexes.items():
        recall = facts.get("recall") or {}
        rows.append(
            {
                "estimator": name,
                "kind": facts.get("kind"),
                "vectors": facts.get("vectors"),
                "recall at 10": recall.get("at_10"),
                "recall at 100": recall.get("at_100"),
            }
        )
    st.dataframe(rows, hide_index=True, width="stretch")
    with st.expander("What the estimators are"):
        for one in asking.estimators(session.client()):
            st.markdown(f"**{plain(one.name)}**: {plain(one.description)}")


def _generators() -> None:
    st.subheader("Generators")
    rows = [
        {
            "name": one.name,
            "variant": one.variant,
            "backend": str(one.facts.get("backend", "")),
            "sampler": one.sampler,
            "steps": one.steps,
            "conditioned on": one.conditioning,
            "pixels": one.image_size,
        }
        for one in asking.generators(session.client())
    ]
    st.dataframe(rows, hide_index=True, width="stretch")


def _jobs() -> None:
    st.subheader("Jobs")
    why = scopes.reason(Scope.ADMIN)
    if why is not None:
        st.caption(why)
        return
    jobs = session.client().jobs()
    rows = [
        {
            "started (UTC)": one.started.strftime("%Y-%m-%d %H:%M"),
            "kind": one.kind,
            "state": one.state.value,
            "by": one.actor,
            "progress": ", ".join(f"{name}: {value}" for name, value in (one.progress or {}).items()),
        }
        for one in jobs
    ]
    if rows:
        st.dataframe(rows, hide_index=True, width="stretch")
    else:
        st.caption("None yet. Programs start them with `POST /v1/jobs`: embed, index, evaluate.")


main()
