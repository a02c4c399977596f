"""Page: everything that was sent to review, to be judged and exported."""

from typing import Any

import streamlit as st

from forebear_dashboard import scopes, session
from forebear_dashboard.report import review_report
from forebear_dashboard.review_list import bulk_form, page_turner, review_filter, review_page, review_table
from forebear_dashboard.verdicts import judge, undo_button
from forebear_serve.client import Client
from forebear_serve.database import Scope

HELD = ("all reviews", "what the filters let through")


def main() -> None:
    client = session.client()
    st.title("Review queue")
    st.caption("Keys: K keep, X remove, L licence issue, U unsure; N next, P previous, Z undo.")
    chosen = review_filter(client)
    page = review_page(client, chosen)
    if not page.reviews:
        _empty(chosen)
        undo_button()
    else:
        judge(page.reviews)
        st.subheader("The list")
        page_turner(page)
        selected = review_table(page.reviews, f"review:table:{page.reviews[0].id}:{len(page.reviews)}")
        bulk_form(selected, page.reviews)
    _exports(client, chosen)


def _empty(chosen: dict[str, Any]) -> None:
    if chosen == {"state": "open"}:
        st.info(
            "Nothing waits for a verdict. Generate or trace a picture, tick “Review” below the ancestors that are to "
            "be judged, and send them here."
        )
        if scopes.may(Scope.GENERATE):
            st.page_link("views/generate.py", label="Generate and trace")
    elif not chosen:
        st.info("There are no reviews yet. Tick “Review” below ancestors, or in the audit, and send them here.")
    else:
        st.info("No review is like this: choose other filters, or the state “any”.")


def _exports(client: Client, chosen: dict[str, Any]) -> None:
    st.subheader("Export")
    held = st.segmented_control("Tables and the report hold", HELD, default=HELD[0], required=True, key="review:held")
    chosen = chosen if held == HELD[1] else {}
    st.caption("The deny list names every image with the verdict remove, for forebear train --deny, embed and index.")
    licences = st.checkbox("Deny images with licence issues too", key="review:licences")
    files = (
        ("Report (HTML)", "report.html", "text/html", lambda: review_report(client, chosen)),
        ("Table (CSV)", "reviews.csv", "text/csv", lambda: client.export_reviews("csv", **chosen)),
        ("Table (Parquet)", "reviews.parquet", None, lambda: client.export_reviews("parquet", **chosen)),
        ("Deny list", "deny.txt", "text/plain", lambda: client.export_reviews("deny", licence_issues=licences)),
    )
    with st.container(horizontal=True):
        for label, name, kind, content in files:
            st.download_button(
                label, content, file_name=name, mime=kind, on_click="ignore", key=f"review:export:{name}"
            )


main()
