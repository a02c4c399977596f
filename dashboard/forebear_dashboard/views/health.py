"""Page: what is served, and whether it works."""

from collections import Counter

import streamlit as st

from forebear_dashboard import asking, scopes, session
from forebear_dashboard.activity import Activity, error_words, job_part, read_activity, replicas_told, stage_words
from forebear_dashboard.text import plain, seconds
from forebear_dashboard.told import errors_told
from forebear_serve.database import Scope
from forebear_serve.job_schemas import JobState
from forebear_serve.schemas import Health, IndexInfo

EVERY = 10.0
"""Seconds between looks at the health."""
LOG_LINES = 8
NOTES = ("storage_only", "reason")
"""Facts of a generator: what its width does not save, and why a quicker backend was not taken."""
PARTS = {"ok": "✔ ok", "busy": "⏳ busy: it has not answered yet"}
JOBS = {
    JobState.RUNNING: "▶",
    JobState.SUCCEEDED: "✔",
    JobState.FAILED: "✗",
    JobState.CANCELLED: "■",
    JobState.INTERRUPTED: "⏸",
}
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
    _jobs()
    index = client.index()
    _index(index)
    _indexes(index)
    _generators()


@st.fragment(run_every=EVERY)
def _health() -> None:
    with errors_told():
        client = session.client()
        found: Health = client.health()
        activity = read_activity(client.metrics())
        icon, words = STATES[found.status]
        st.subheader("Health")
        st.markdown(f"{icon} **{found.status}**. {words} Looked at every {EVERY:.0f} s.")
        parts, doing = st.columns([1, 1.4], gap="medium")
        with parts:
            _parts(found, activity)
        with doing:
            _activity(activity)


def _parts(found: Health, activity: Activity) -> None:
    rows = []
    for name, state in found.parts.items():
        row = {"part": name, "state": PARTS.get(state, f"✗ {state}")}
        if activity.replicas:
            row["replicas"] = replicas_told(activity.replicas.get(name, Counter()))
        rows.append(row | {"in hand": str(activity.pending.get(name, 0))})
    in_hand = st.column_config.TextColumn("in hand", help="Calls that the part works at, or that wait for it.")
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        column_config={"in hand": in_hand},
        alt="Parts of the service, whether they answer, their replicas, and calls that they have not answered",
    )


def _activity(found: Activity) -> None:
    """What it does, and what went wrong, since its start."""
    with st.grid(min_column_width=120):
        st.metric("Being answered now", found.active)
        st.metric("Answered", f"{found.answered:,}")
        for stage in ("generate", "embed", "score"):
            if stage in found.seconds:
                st.metric(f"Mean of {stage_words(stage)}", seconds(found.seconds[stage]))
    st.markdown("**Errors since the start**")
    if not found.errors:
        st.caption("None.")
        return
    rows = [
        {
            "times": count,
            "somebody asked for": error_words(status)[0],
            "what to do": error_words(status)[1].replace("`", ""),
        }
        for status, count in found.errors.most_common()
    ]
    st.dataframe(rows, hide_index=True, width="stretch", alt="Errors by kind")


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
    numbers = {"vectors": st.column_config.NumberColumn("vectors", format="localized")}
    st.dataframe(rows, hide_index=True, width="stretch", column_config=numbers, alt="Indexes by estimator")
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
            "note": ". ".join(str(one.facts[name]) for name in NOTES if one.facts.get(name)),
        }
        for one in asking.generators(session.client())
    ]
    st.dataframe(rows, hide_index=True, width="stretch", alt="Generators, and what they run on")


def _jobs() -> None:
    st.subheader("Jobs")
    why = scopes.reason(Scope.ADMIN)
    if why is not None:
        st.caption(why)
        return
    jobs = session.client().jobs()
    if not jobs:
        st.caption("None yet. Programs start them with `POST /v1/jobs`: embed, index, evaluate.")
        return
    rows = [
        {
            "started (UTC)": one.started.strftime("%Y-%m-%d %H:%M"),
            "kind": one.kind,
            "state": f"{JOBS[one.state]} {one.state.value}",
            "done": job_part(one),
            "by": one.actor,
            "progress": ", ".join(f"{name}: {value}" for name, value in (one.progress or {}).items()),
        }
        for one in jobs
    ]
    done = st.column_config.ProgressColumn("done", format="percent", min_value=0.0, max_value=1.0)
    st.dataframe(rows, hide_index=True, width="stretch", column_config={"done": done}, alt="Jobs, the newest first")
    failed = next((one for one in jobs if one.state is JobState.FAILED), None)
    if failed is not None:
        st.warning(
            f"**The job {plain(failed.kind)} of {failed.started:%Y-%m-%d %H:%M} UTC failed** with exit status "
            f"{failed.exit_status}. Mend what its last lines say, and start the same job again: it goes on where it "
            "was."
        )
        st.code("\n".join(session.client().job(failed.id).log[-LOG_LINES:]) or "It wrote nothing.", language=None)


main()
