"""What pages are made of: text of others, kept sessions, thumbnails, the report, and the command."""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from forebear_dashboard.activity import error_words, job_part, read_activity, replicas_told
from forebear_dashboard.families import joined_families, others
from forebear_dashboard.group_bars import group_table
from forebear_dashboard.report import review_report
from forebear_dashboard.session import KeptSessions
from forebear_dashboard.text import escaped, percent, plain, score
from forebear_dashboard.thumbnails import Thumbnails
from forebear_dashboard.traced_view import nearest_facts
from forebear_dashboard.verb import dashboard, streamlit_arguments
from forebear_serve.audit_schemas import Duplicate
from forebear_serve.client import Client, RefusedError
from forebear_serve.job_schemas import JobInfo, JobState
from forebear_serve.review_schemas import ReviewRequest
from forebear_serve.schemas import SampleInfo


@pytest.fixture
def asker(address: str, secrets: dict[str, str]) -> Iterator[Client]:
    with Client(address, secrets["admin"]) as client:
        yield client


@given(st.text(alphabet="![]()<>`*_#:$~\\ab \n"))
def test_others_text_is_no_markup(text: str) -> None:
    told = plain(text)
    assert "\n" not in told
    assert not re.search(r"(?<!\\)(?:\\\\)*[!\[\]()<>`*_#:$~]", told)  # every special sign has its backslash
    assert re.sub(r"\\(.)", r"\1", told) == " ".join(text.split())


def test_html_of_others_is_text() -> None:
    assert escaped("<img src=\"http://x\" onerror='a'>") == "&lt;img src=&quot;http://x&quot; onerror=&#x27;a&#x27;&gt;"


def test_percents_keep_a_decimal_where_it_matters() -> None:
    assert [percent(one) for one in (0.0312, 0.5, 1.0)] == ["3.1 %", "50 %", "100 %"]


def test_scores_are_short() -> None:
    told = [score(one) for one in (1016.7, -0.0312, 4.374e-6, -1.2e9)]
    assert told == ["+1,017", "-0.0312", "+4.37e-6", "-1.2e9"]


def test_sessions_are_found_by_their_key_alone() -> None:
    kept = KeptSessions()
    first, second = kept.keep("fb_a"), kept.keep("fb_b")
    assert (kept.find(first), kept.find(second), kept.find("guessed"), kept.find("")) == ("fb_a", "fb_b", None, None)
    kept.forget(first)
    assert kept.find(first) is None


def test_thumbnails_are_kept_for_a_time_and_up_to_a_number(asker: Client) -> None:
    ids = [one.id for one in asker.samples(limit=3).samples]
    thumbnails = Thumbnails(most=2)
    found = thumbnails.get(asker, "here", [*ids, "no such image"])
    assert found["no such image"] is None
    assert all(str(found[one]).startswith("b'\\x89PNG") for one in ids)
    asked = Client(asker._target.address.removesuffix("/v1"), "fb_wrong")
    assert thumbnails.get(asked, "here", [ids[2]]) == {ids[2]: found[ids[2]]}  # not asked for again
    assert thumbnails.get(asker, "here", [ids[0]])  # the first ones made room
    expired = Thumbnails(lasts=-1.0)
    expired.get(asker, "here", ids)
    assert len(expired.get(asker, "here", ids)) == 3


def test_report_is_whole_and_asks_nobody(asker: Client, html_page: type) -> None:
    sample = asker.samples(limit=9).samples[-1]
    asker.create_reviews([ReviewRequest(sample_id=sample.id, note="<script>alert(1)</script> whose?")])
    text = review_report(asker, {"text": "whose?"})
    page = html_page(text)
    assert len(page.all("img")) == 1
    assert all(str(one["src"]).startswith("data:image/png;base64,") and one["alt"] for one in page.all("img"))
    assert "<script>" not in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    index = asker.index()
    assert {index.store_plan, index.dataset, sample.id} <= set(re.findall(r"[\w-]+", text))
    assert index.sign.replace("'", "&#39;") in text


def test_report_of_nothing(asker: Client) -> None:
    assert "There are none." in review_report(asker, {"text": "no note says this"})


def test_group_bars_are_told_in_words(asker: Client, html_page: type) -> None:
    traced = asker.attribute(asker.samples(limit=1).samples[0], mode="exact", top_k=3)
    answer = traced.attributions[0]
    name, totals = next(iter(answer.group_totals.items()))
    page = html_page(group_table(name, totals, tested=True))
    bars = [one for one in page.all("div") if one.get("role") == "img"]
    assert bars
    assert all("of the influence" in str(one["aria-label"]) and "expected" in str(one["aria-label"]) for one in bars)


def test_streamlit_is_told_to_stay_at_home() -> None:
    told = streamlit_arguments("127.0.0.1", 8501, browser=False)
    pairs = dict(zip(told[2::2], told[3::2], strict=True))
    assert pairs["--server.address"] == "127.0.0.1"
    assert pairs["--browser.gatherUsageStats"] == "false"
    assert pairs["--server.headless"] == "true"


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(("wish", "opened"), [("", True), ("BROWSER=no", False)])
def test_demo_opens_the_pages_unless_told_not_to(wish: str, opened: bool) -> None:
    command = ["make", "--dry-run", "demo", *wish.split()]
    told = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True).stdout
    assert "forebear serve --run runs/demo --dashboard" in told
    assert ("--no-browser" not in told) == opened
    headless = streamlit_arguments("127.0.0.1", 8501, browser=opened)
    assert headless[headless.index("--server.headless") + 1] == str(not opened).lower()


def test_command_refuses_what_is_no_address() -> None:
    found = CliRunner().invoke(dashboard, ["--address", "localhost:8000"])
    assert found.exit_code != 0
    assert "is no address" in str(found.exception or found.output)


def test_token_is_left_aside_where_others_reach_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBEAR_TOKEN", "fb_operator")
    monkeypatch.setattr("streamlit.web.cli.main", lambda *_, **__: None)
    monkeypatch.setattr("sys.argv", ["forebear"])
    monkeypatch.setenv("FOREBEAR_ADDRESS", "http://127.0.0.1:8000")
    found = CliRunner().invoke(dashboard, ["--host", "0.0.0.0"])
    assert "FOREBEAR_TOKEN is left aside" in found.output
    assert "FOREBEAR_TOKEN" not in os.environ


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda one: one[0] != one[1]), max_size=20))
def test_families_are_what_pairs_join(pairs: list[tuple[int, int]]) -> None:
    images = [SampleInfo(id=str(row), row=row, caption="", groups={}) for row in range(13)]
    told = [
        Duplicate(rank=rank, value=0.0, same=False, first=images[first], second=images[second])
        for rank, (first, second) in enumerate(pairs, 1)
    ]
    found = [{int(one.id) for one in family} for family in joined_families(told)]
    assert sorted(row for family in found for row in family) == sorted({row for pair in pairs for row in pair})
    assert all(sum({first, second} <= family for family in found) == 1 for first, second in pairs)
    # As few links as can be: no family falls apart when only its own pairs are walked.
    for family in found:
        reached, grows = {min(family)}, True
        while grows:
            more = {row for pair in pairs if reached & set(pair) for row in pair}
            grows, reached = not more <= reached, reached | more
        assert reached == family
    assert [len(family) for family in found] == sorted(map(len, found), reverse=True)


def test_rest_of_a_family_is_named_shortly() -> None:
    images = [SampleInfo(id=str(row), row=row, caption="", groups={}) for row in range(6)]
    assert others(images[:2], images[0]) == "1"
    assert others(images, images[5]) == "0, 1, 2 and 2 more"


def test_nearest_image_is_told_whole(asker: Client, html_page: type) -> None:
    sample = asker.samples(limit=1).samples[0]
    memorisation = asker.attribute(sample, top_k=3).attributions[0].memorisation
    assert memorisation is not None
    page = html_page(nearest_facts(memorisation.nearest[0], b"png"))
    assert page.all("img")[0]["alt"]
    assert "near copy" in nearest_facts(memorisation.nearest[0], None)


def test_activity_is_the_servers_own_count(asker: Client) -> None:
    before = read_activity(asker.metrics())
    with pytest.raises(RefusedError):
        asker.sample("no such image")
    asker.attribute(asker.samples(limit=1).samples[0], top_k=3)
    after = read_activity(asker.metrics())
    assert after.answered >= before.answered + 3
    assert after.errors[404] == before.errors[404] + 1
    assert after.active >= 1  # the question itself
    assert after.seconds["score"] > 0
    assert after.pending["attributor"] == 0
    assert not after.replicas  # these parts are objects of one process
    assert read_activity("") == read_activity("# HELP nothing\n")


def test_replicas_are_told_by_state() -> None:
    known = (("jobs", "running", 1), ("audits", "running", 1), ("audits", "starting", 2))
    text = "".join(f'forebear_replicas{{part="{part}",state="{state}"}} {count}.0\n' for part, state, count in known)
    found = read_activity(text).replicas
    assert {part: replicas_told(states) for part, states in found.items()} == {
        "jobs": "1 of 1",
        "audits": "1 of 3: 2 starting",
    }
    assert replicas_told(Counter()) == ""


def test_every_error_says_what_to_do() -> None:
    assert all(all(error_words(status)) for status in (401, 403, 404, 409, 413, 422, 429, 500, 503, 418))


def test_part_of_a_job_that_is_done() -> None:
    told = {"id": "20260101T000000-00000000", "kind": "embed", "options": {}, "actor": "a", "exit_status": None}
    told |= {"started": "2026-01-01T00:00:00Z", "state": "running"}
    assert job_part(JobInfo(**told, progress={"done": 3, "total": 12})) == 0.25
    assert job_part(JobInfo(**told, progress={"stage": "scan"})) is None
    assert job_part(JobInfo(**told, progress=None).model_copy(update={"state": JobState.SUCCEEDED})) == 1.0
