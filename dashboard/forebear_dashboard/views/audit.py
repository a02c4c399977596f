"""Page: the data set as a whole, to find images that somebody should look at."""

import streamlit as st

from forebear_dashboard import asking, audit_views, session
from forebear_dashboard.families import families

SECTIONS = {
    "overview": audit_views.overview,
    "outliers": audit_views.outliers,
    "generally influential": audit_views.influential,
    "near duplicates": audit_views.duplicates,
    "families": families,
    "groups": audit_views.groups,
}


def main() -> None:
    client = session.client()
    st.title("Dataset audit")
    st.caption("The training images as a whole: what stands out, what counts for everything, what is there twice.")
    known = [one for one in asking.estimators(client) if not one.baseline]
    if not known:
        st.info("The run has no index of an estimator yet: `forebear index` builds one.")
        return
    default = next((one.name for one in known if one.default), known[0].name)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        section = st.segmented_control(
            "Look at",
            list(SECTIONS),
            default="overview",
            required=True,
            key="look",
            bind="query-params",
            width="content",
        )
        estimator = audit_views.shown_estimator([one.name for one in known], default)
    with st.spinner("Asking the server; the first time it measures the whole data set"):
        SECTIONS[section or "overview"](client, estimator)


main()
