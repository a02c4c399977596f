"""Page: the training images, searched and filtered."""

import streamlit as st

from forebear_dashboard import cards, session
from forebear_dashboard.samples import sample_filter, sample_page
from forebear_dashboard.thumbnails import thumbnails

PAGE_SIZE = 36


def main() -> None:
    client = session.client()
    st.title("Training images")
    st.caption("What the model was trained on. Removed images are in no list.")
    chosen = sample_filter(client)
    page = sample_page(client, chosen, PAGE_SIZE, "images:page")
    if not page.samples:
        st.info(
            "No training image is like this. Shorten the text, or choose the group “any”: the text is looked for in "
            "captions and ids, and upper and lower case are the same."
        )
        return
    pictures = thumbnails(one.id for one in page.samples)
    columns = cards.told_columns([one.groups for one in page.samples])
    with st.grid(min_column_width=cards.CARD_WIDTH, gap="xsmall"):
        for one in page.samples:
            with cards.card(f"images:{one.id}"):
                st.html(cards.picture(pictures[one.id], one.caption, one.id) + cards.sample_facts(one, columns))
                if st.button("Inspect", key=f"images:{one.id}", type="tertiary"):
                    cards.inspect(one.id)


main()
