"""Every page against the real services: empty, full, refused, unreachable."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from forebear.images import to_png
from forebear_serve.client import Client, RefusedError
from forebear_serve.review_schemas import ReviewChange, ReviewRequest

Open = Callable[..., AppTest]
Words = Callable[[AppTest], str]
PAGES = ("generate", "trace", "compare", "images", "audit", "review", "health")


def button(page: AppTest, label: str) -> Any:
    return next(one for one in page.button if one.label == label)


@pytest.fixture
def asker(address: str, secrets: dict[str, str]) -> Iterator[Client]:
    with Client(address, secrets["admin"]) as client:
        yield client


@pytest.fixture
def traced_page(open_page: Open, words: Words) -> AppTest:
    """A picture made and traced."""
    page = open_page("generate", seed="3", steps="4", shown="3")
    button(page, "Generate and trace").click().run()
    assert "Proponents" in words(page)
    return page


@pytest.mark.parametrize("name", PAGES)
def test_page_opens_for_a_reader(open_page: Open, name: str, words: Words) -> None:
    page = open_page(name, scope="read")
    assert len(page.title) == 1
    assert not page.error
    assert words(page)


@pytest.mark.parametrize("name", PAGES)
def test_page_without_a_server_says_what_to_do(
    open_page: Open, environment: pytest.MonkeyPatch, unused_port: int, name: str, words: Words
) -> None:
    environment.setenv("FOREBEAR_ADDRESS", f"http://127.0.0.1:{unused_port}")
    page = open_page(name)
    assert "is `forebear serve` running there" in words(page).replace("\\", "")


def test_without_a_token_there_is_only_the_way_in(environment: pytest.MonkeyPatch, app: AppTest, words: Words) -> None:
    page = app.run()
    assert [one.value for one in page.title] == ["Forebear"]
    assert "forebear token create" in words(page)


def test_signing_in_and_out(environment: pytest.MonkeyPatch, app: AppTest, secrets: dict[str, str]) -> None:
    page = app.run()
    page.text_input(key="sign-in:token").input("fb_nonsense")
    button(page, "Sign in").click().run()
    assert "This token is not accepted" in page.error[0].value
    page.text_input(key="sign-in:token").input(secrets["read"])
    button(page, "Sign in").click().run()
    assert page.title[0].value == "Training images"  # a reader cannot make pictures
    page.button(key="session:out").click().run()
    assert page.title[0].value == "Forebear"


def test_token_that_is_not_accepted_any_more_leads_back(environment: pytest.MonkeyPatch, app: AppTest) -> None:
    environment.setenv("FOREBEAR_TOKEN", "fb_nonsense")
    page = app.run()
    assert page.title[0].value == "Forebear"
    assert "not accepted any more" in page.warning[0].value


@pytest.mark.parametrize("name", ["generate", "trace", "compare"])
def test_pages_that_make_pictures_rest_for_a_reader(open_page: Open, name: str) -> None:
    page = open_page(name, scope="read")
    assert "lacks the scope generate" in page.info[0].value
    assert "It has: read" in page.info[0].value
    assert not [one for one in page.button if one.label != "Sign out"]


def test_token_without_read_is_told_on_every_page(open_page: Open) -> None:
    for name in ("images", "health"):
        page = open_page(name, scope="generate")
        assert "lacks the scope read" in page.info[0].value
        assert not page.title


def test_pages_are_offered_by_scope(
    environment: pytest.MonkeyPatch, token_for: Callable[[str], str], app: AppTest
) -> None:
    environment.setenv("FOREBEAR_TOKEN", token_for("read review"))
    page = app.run()
    assert page.title[0].value == "Training images"  # the first that this token may use
    told = "".join(one.proto.body for one in page.sidebar.get("html"))
    assert "one who may read review" in told
    assert "may: read, review" in told


def test_buttons_rest_for_who_may_not_review(open_page: Open) -> None:
    page = open_page("generate", scope="read generate", seed="3", steps="4", shown="3")
    button(page, "Generate and trace").click().run()
    send = button(page, "Send ticked images to review")
    assert send.disabled
    assert "lacks the scope review" in send.help
    assert button(open_page("audit", scope="read", look="outliers"), "Send ticked images to review").disabled
    inspecting = open_page("images", scope="read")
    next(one for one in inspecting.button if one.label.startswith("Inspect")).click().run()
    assert button(inspecting, "Trace this image").disabled


def test_picture_and_its_ancestors(traced_page: AppTest, words: Words) -> None:
    told = words(traced_page)
    assert "▲1" in told
    assert "▼1" in told
    assert "Answered" in told
    assert all(one.proto.imgs[0].alt for one in traced_page.get("image"))
    assert len(re.findall(r'<img class="fb-picture" src="data:image/png;base64,[^"]+" alt="[^"]+">', told)) >= 6


def test_link_shows_the_same_picture_again(traced_page: AppTest, open_page: Open) -> None:
    picture = traced_page.query_params["picture"]
    picture = picture if isinstance(picture, str) else picture[0]
    again = open_page("generate", picture=picture, shown="3")
    assert facts(again) == facts(traced_page)


def facts(page: AppTest) -> list[str]:
    """The cards' facts."""
    return [one.proto.body for one in page.get("html") if "score" in one.proto.body]


def test_part_of_a_picture_is_traced(traced_page: AppTest) -> None:
    whole = facts(traced_page)
    across, down = (one for one in traced_page.slider if "edge" in one.label)
    across.set_value((0, 4))
    down.set_value((2, 8)).run()
    button(traced_page, "Trace this part").click().run()
    assert "About the box from (0, 2) to (4, 8)" in traced_page.info[0].value
    assert facts(traced_page) != whole
    button(traced_page, "Whole picture").click().run()
    assert facts(traced_page) == whole


def test_noise_levels_alone_are_traced(traced_page: AppTest) -> None:
    next(one for one in traced_page.slider if "timesteps" in one.label).set_value((0, 500)).run()
    button(traced_page, "Trace this part").click().run()
    assert "About timesteps 0 to 500" in traced_page.info[0].value


def test_exact_mode_tests_groups(open_page: Open, words: Words) -> None:
    page = open_page("generate", seed="3", steps="4", shown="3", mode="exact")
    button(page, "Generate and trace").click().run()
    assert "adjusted for the number of groups" in words(page)


def test_estimators_stand_side_by_side(open_page: Open, asker: Client) -> None:
    sample = asker.samples(limit=1).samples[0]
    page = open_page("trace", sample=sample.id, estimators="pixel", shown="3")
    assert f'title="{sample.caption}"' in facts(page)[0]  # to the pixel it is its own nearest
    page.multiselect(key="estimators").set_value(["pixel", "retrac"]).run()
    headings = [one.value for one in page.markdown if one.value.startswith("#### ")]
    assert headings == ["#### pixel", "#### retrac"] * 2  # above the ancestors, and above the groups


def test_uploaded_picture_is_traced(open_page: Open, asker: Client) -> None:
    page = open_page("trace", shown="3", estimators="pixel")
    button(page, "Trace it").click().run()
    assert "Choose a picture first" in page.warning[0].value
    sample = asker.samples(limit=1).samples[0]
    picture = to_png(asker.sample_image(sample.id, 8))
    page.file_uploader(key="trace:file").set_value(("mine.png", picture, "image/png"))
    button(page, "Trace it").click().run()
    assert f'title="{sample.caption}"' in facts(page)[0]
    assert "picture" in page.query_params  # the link traces it again
    assert any("near copy" in one.value.lower() for one in [*page.success, *page.warning])
    page.file_uploader(key="trace:file").set_value(("no.png", b"no picture", "image/png"))
    button(page, "Trace it").click().run()
    assert page.error


def test_search_for_training_images(open_page: Open, words: Words) -> None:
    page = open_page("images", text="digit t")
    assert "digit two" in words(page)
    assert "digit one" not in words(page)
    page.text_input(key="text").input("no such words").run()
    assert "No training image is like this" in page.info[0].value


def test_health_names_every_part(open_page: Open, words: Words) -> None:
    page = open_page("health")
    assert set(page.dataframe[0].value["part"]) >= {"generator fp32", "attributor", "catalogue", "reviews"}
    assert "All parts answer" in words(page)
    assert "POST /v1/jobs" in words(page)
    assert "lacks the scope admin" in words(open_page("health", scope="read"))


def test_health_tells_errors_and_failed_jobs(open_page: Open, asker: Client, settings: Any, words: Words) -> None:
    with pytest.raises(RefusedError):
        asker.sample("no such image")
    job = asker.start_job("index")
    folder = settings.run / "jobs" / job.id
    while asker.job(job.id).state == "running":
        time.sleep(0.1)
    (folder / "log").write_text("error: the disk is full; make room\n")
    (folder / "exit").write_text("1\n")
    page = open_page("health")
    assert "something that is not there" in set(page.dataframe[1].value["somebody asked for"])
    assert "failed" in page.warning[0].value
    assert "make room" in next(one.value for one in page.code)
    (folder / "exit").write_text("0\n")
    assert not open_page("health").warning


def test_review_from_tick_to_deny_list(traced_page: AppTest, open_page: Open, asker: Client, words: Words) -> None:
    before = [
        ReviewChange(id=one.id, version=one.version, verdict="keep") for one in asker.reviews(state="open").reviews
    ]
    if before:  # other tests' own
        asker.change_reviews(before)
    button(traced_page, "Send ticked images to review").click().run()
    assert "first" in traced_page.warning[0].value
    first, second = [one for one in traced_page.checkbox if one.label.startswith("Review ▲")][:2]
    first.check()
    second.check()
    next(one for one in traced_page.text_input if one.label == "Note for the reviewers").input("whose is it?")
    button(traced_page, "Send ticked images to review").click().run()
    assert "Sent 2 images to review" in traced_page.success[-1].value

    page = open_page("review")
    waiting = asker.reviews(state="open").reviews
    assert {one.note for one in waiting} == {"whose is it?"}
    assert waiting[0].attribution is not None
    assert waiting[0].attribution.rank in {1, 2}
    button(page, "Remove").click().run()
    assert len(asker.reviews(state="open").reviews) == 1
    assert asker.export_reviews("deny").decode() == f"{waiting[0].sample_id}\n"
    button(page, "Undo the last verdict").click().run()
    assert len(asker.reviews(state="open").reviews) == 2

    page.checkbox(key="review:all").check()
    page.selectbox(key="review:bulk").set_value("licence-issue").run()
    button(page, "Judge 2 reviews").click().run()
    assert len(asker.reviews(state="open").reviews) == 2  # only asked so far
    button(page, "Yes, licence issue").click().run()
    assert {asker.review(one.id).verdict for one in waiting} == {"licence-issue"}
    history = open_page("review", state="decided").dataframe[0].value
    assert "licence-issue" in history["to"].iloc[-1]
    assert "Nothing waits for a verdict" in words(open_page("review"))


def test_verdict_on_a_review_that_somebody_changed(open_page: Open, asker: Client) -> None:
    sample = asker.samples(limit=5).samples[-1]
    (opened,) = asker.create_reviews([ReviewRequest(sample_id=sample.id)])
    page = open_page("review")
    asker.change_reviews([ReviewChange(id=opened.review.id, version=1, note="seen")])
    button(page, "Keep").click().run()
    assert page.error
    assert asker.review(opened.review.id).verdict is None


def test_reader_may_not_judge(open_page: Open, asker: Client) -> None:
    sample = asker.samples(limit=6).samples[-1]
    asker.create_reviews([ReviewRequest(sample_id=sample.id)])
    page = open_page("review", scope="read")
    assert any("lacks the scope review" in one.value for one in page.caption)
    for label in ("Keep", "Remove", "Licence issue", "Unsure", "Save the note"):
        assert button(page, label).disabled
    page.checkbox(key="review:all").check().run()
    assert page.button(key="review:bulk-ask").disabled
    assert not button(open_page("review", scope="read review"), "Keep").disabled


@pytest.mark.parametrize(
    ("look", "sentence"),
    [
        ("overview", "Gradient norms by timestep"),
        ("outliers", "#1: "),
        ("generally influential", "stood for queries"),
        ("near duplicates", "pair 1: "),
        ("families", "from the "),
        ("groups", "the largest first"),
    ],
)
def test_audit_of_the_data_set(open_page: Open, look: str, sentence: str, words: Words) -> None:
    assert sentence in words(open_page("audit", look=look))


def test_groups_lead_to_their_images(open_page: Open, words: Words) -> None:
    page = open_page("audit", look="groups")
    assert "Open all" in "".join(one.proto.label for one in page.get("page_link"))
    assert len([one for one in page.checkbox if one.label == "Review"]) >= 2  # some of the first group's images


def test_families_are_sent_to_review_together(open_page: Open, asker: Client) -> None:
    page = open_page("audit", look="families", pairs="12")
    for one in [one for one in page.checkbox if one.label == "Review"][:2]:
        one.check()
    button(page, "Send ticked images to review").click().run()
    assert any(one.note.startswith("audit: family of ") for one in asker.reviews().reviews)


def test_audit_sends_to_review(open_page: Open, asker: Client) -> None:
    page = open_page("audit", look="outliers")
    next(one for one in page.checkbox if one.label == "Review").check()
    button(page, "Send ticked images to review").click().run()
    assert "to review" in page.success[0].value or "already" in page.success[0].value
    assert "audit: outlier #1 by score on itself" in {one.note for one in asker.reviews().reviews}


def test_generators_are_compared(open_page: Open) -> None:
    page = open_page("compare", seed="5", steps="4")
    assert "one generator" in page.info[0].value
    button(page, "Compare").click().run()
    assert [one.value for one in page.subheader if one.value.startswith("Seed")] == ["Seed 5", "Seed 6"]
    assert page.dataframe[0].value.iloc[0, 1] == 1.0  # with itself


def test_link_to_a_picture_that_is_gone(open_page: Open) -> None:
    page = open_page("generate", picture="0" * 32)
    assert "make it again" in page.error[0].value.replace("\\", "")
