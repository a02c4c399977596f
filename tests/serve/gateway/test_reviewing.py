"""/v1/reviews: opening, judging, conflicts, pages, exports, who may do what."""

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from forebear.run import Run
from forebear.store import remove_samples, restore_samples
from forebear_serve.database import Change, ConflictError, Database, NewReview, ReviewFilter, Tokens, Verdict
from forebear_serve.engine.reviewing import ReviewDesk
from forebear_serve.gateway.api import make_api
from forebear_serve.gateway.core import Core
from forebear_serve.gateway.reviewing import fitting_groups
from forebear_serve.parts import LocalPart
from forebear_serve.problems import unavailable
from forebear_serve.settings import ServeSettings

Cores = Callable[[ServeSettings], Core]
SEEN = {"id": 1, "version": 1}


@pytest.fixture
def desk(settings: ServeSettings, make_core: Cores, tmp_path: Path) -> TestClient:
    """A reviewer's client of an API with an empty database of reviews."""
    database = f"sqlite:///{tmp_path / 'reviews.sqlite'}"
    core = make_core(replace(settings, database=database))
    _, secret = Tokens(Database.open(database)).create("ana", ["read", "review"])
    return TestClient(make_api(core), headers={"Authorization": f"Bearer {secret}"})


@pytest.fixture
def samples(client: TestClient) -> list[dict]:
    return client.get("/v1/samples", params={"limit": 5}).json()["samples"]


def opened(desk: TestClient, *sample_ids: str, **given: str) -> list[dict]:
    answer = desk.post("/v1/reviews", json={"reviews": [{"sample_id": one, **given} for one in sample_ids]})
    assert answer.status_code == 200, answer.text
    return [one["review"] for one in answer.json()]


def changed(desk: TestClient, *changes: dict, request_id: str = "request-1"):
    return desk.patch("/v1/reviews", json={"changes": changes}, headers={"X-Request-ID": request_id})


def test_a_review_is_opened_with_the_samples_groups_and_who_asked(
    desk: TestClient, samples: list[dict], served_run: Run
) -> None:
    evidence = {"fingerprint": "{}", "estimator": "retrac", "score": 0.5, "rank": 1}
    asked = {"sample_id": samples[0]["id"], "picture_id": "0" * 32, "note": "whose?", "attribution": evidence}
    body = {"reviews": [asked, {"sample_id": samples[1]["id"]}]}
    first, second = desk.post("/v1/reviews", json=body, headers={"X-Request-ID": "opening-1"}).json()
    review = first["review"]
    assert (first["new"], second["new"]) == (True, True)
    assert review["groups"] == {name: value for name, value in samples[0]["groups"].items() if value}
    assert {name: review[name] for name in asked} == asked
    assert (review["run"], review["creator"], review["state"]) == (served_run.folder.name, "ana", "open")
    (line,) = desk.get(f"/v1/reviews/{review['id']}/history").json()
    assert (line["actor"], line["action"], line["request_id"]) == ("ana", "create", "opening-1")
    again = desk.post("/v1/reviews", json=body).json()
    assert [one["new"] for one in again] == [False, False]
    assert [one["review"]["id"] for one in again] == [review["id"], second["review"]["id"]]
    assert desk.get(f"/v1/reviews/{review['id']}").json() == review


def test_only_samples_that_are_there_are_reviewed(desk: TestClient, samples: list[dict], served_run: Run) -> None:
    missing = desk.post("/v1/reviews", json={"reviews": [{"sample_id": samples[0]["id"]}, {"sample_id": "nobody"}]})
    assert (missing.status_code, "nobody" in missing.json()["detail"]) == (404, True)
    remove_samples(served_run.store_folder, [samples[2]["id"]], "a test")
    try:
        gone = desk.post("/v1/reviews", json={"reviews": [{"sample_id": samples[2]["id"]}]})
        assert gone.status_code == 404
    finally:
        restore_samples(served_run.store_folder, [samples[2]["id"]])
    assert desk.get("/v1/reviews").json() == {"reviews": [], "total": 0, "next": None}


def test_changes_are_whole_and_conflicts_are_told(desk: TestClient, samples: list[dict]) -> None:
    one, two = opened(desk, samples[0]["id"], samples[1]["id"])
    answer = changed(desk, {"id": one["id"], "version": 1, "verdict": "remove", "note": "no licence"})
    assert answer.status_code == 200
    assert [(review["verdict"], review["version"], review["reviewer"]) for review in answer.json()] == [
        ("remove", 2, "ana")
    ]
    stale = changed(
        desk,
        {"id": two["id"], "version": 1, "verdict": "keep"},
        {"id": one["id"], "version": 1, "verdict": "keep"},
        request_id="request-2",
    )
    assert stale.status_code == 409
    assert stale.json()["type"] == "urn:forebear:problem:conflict"
    assert "ana" in stale.json()["detail"]
    assert desk.get(f"/v1/reviews/{two['id']}").json() == two
    reopened = changed(desk, {"id": one["id"], "version": 2, "reopen": True}, request_id="request-3").json()
    assert (reopened[0]["verdict"], reopened[0]["state"]) == (None, "open")
    history = desk.get(f"/v1/reviews/{one['id']}/history").json()
    assert [line["request_id"] for line in history][1:] == ["request-1", "request-3"]
    assert history[1]["before"]["verdict"] is None
    assert history[1]["after"]["verdict"] == "remove"


def test_a_change_that_was_made_but_not_answered_is_not_a_conflict_with_itself(tmp_path: Path) -> None:
    """What a gateway does when the desk's replica died after its commit: it asks another one."""
    desk = ReviewDesk(f"sqlite:///{tmp_path / 'reviews.sqlite'}")
    (first, _), (second, _) = desk.create([NewReview("run", "a"), NewReview("run", "b", note="same")], "ana", "r0")
    changes = [Change(first.id, 1, Verdict.REMOVE, "gone"), Change(second.id, 1, note="same")]
    made = desk.change(changes, "ana", "r1")
    assert desk.change(changes, "ana", "r1") == made
    for actor, request_id, verdict in (("ben", "r1", "remove"), ("ana", "r2", "remove"), ("ana", "r1", "keep")):
        with pytest.raises(ConflictError):
            desk.change([Change(first.id, 1, Verdict(verdict), "gone"), changes[1]], actor, request_id)
    assert len(desk.history(first.id)) == 2


def test_lists_are_narrowed_and_paged_from_the_newest(desk: TestClient, samples: list[dict]) -> None:
    reviews = opened(desk, *(one["id"] for one in samples))
    changed(desk, {"id": reviews[0]["id"], "version": 1, "verdict": "keep", "note": "a 100 % sure"})
    seen, after = [], {}
    while after is not None:
        page = desk.get("/v1/reviews", params={"limit": 2, **after}).json()
        assert page["total"] == 5
        seen += [one["id"] for one in page["reviews"]]
        after = None if page["next"] is None else {"after": page["next"]}
    assert seen == sorted((one["id"] for one in reviews), reverse=True)
    name, value = next(iter(samples[0]["groups"].items()))
    alike = {one["id"] for one in samples if one["groups"][name] == value}
    for params, expected in (
        ({"verdict": "keep"}, {samples[0]["id"]}),
        ({"state": "open"}, {one["id"] for one in samples[1:]}),
        ({"sample_id": samples[3]["id"]}, {samples[3]["id"]}),
        ({"text": "100 %"}, {samples[0]["id"]}),
        ({"reviewer": "ana"}, {samples[0]["id"]}),
        ({"picture_id": "0" * 32}, set()),
        ({"group": name, "value": value}, alike),
    ):
        page = desk.get("/v1/reviews", params=params).json()
        assert {one["sample_id"] for one in page["reviews"]} == expected, params
        assert page["total"] == len(expected)


def test_exports_are_files_of_this_runs_reviews(desk: TestClient, samples: list[dict]) -> None:
    reviews = opened(desk, *(one["id"] for one in samples[:3]), note="=1+1")
    verdicts = ("remove", "licence-issue", "keep")
    changes = [
        {"id": one["id"], "version": 1, "verdict": verdict} for one, verdict in zip(reviews, verdicts, strict=True)
    ]
    assert changed(desk, *changes).status_code == 200
    table = desk.get("/v1/reviews/export", params={"format": "csv"})
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert table.headers["content-disposition"] == 'attachment; filename="reviews.csv"'
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["sample_id"] for row in rows] == [one["id"] for one in samples[2::-1]]
    assert {row["note"] for row in rows} == {"'=1+1"}
    parquet = desk.get("/v1/reviews/export", params={"format": "parquet", "verdict": "remove"})
    assert parquet.headers["content-type"] == "application/vnd.apache.parquet"
    assert pq.read_table(io.BytesIO(parquet.content))["sample_id"].to_pylist() == [samples[0]["id"]]
    deny = desk.get("/v1/reviews/export", params={"format": "deny"})
    assert (deny.headers["content-disposition"], deny.text) == (
        'attachment; filename="deny.txt"',
        f"{samples[0]['id']}\n",
    )
    wide = desk.get("/v1/reviews/export", params={"format": "deny", "licence_issues": True})
    assert wide.text.split() == sorted(one["id"] for one in samples[:2])


def test_reviews_of_other_runs_are_not_listed_or_exported(desk: TestClient, tmp_path: Path) -> None:
    others = ReviewDesk(f"sqlite:///{tmp_path / 'reviews.sqlite'}")
    ((other, _),) = others.create([NewReview("another", "theirs")], "ben", "r0")
    others.change([Change(other.id, 1, Verdict.REMOVE)], "ben", "r1")
    assert desk.get("/v1/reviews").json()["total"] == 0
    assert desk.get("/v1/reviews/export", params={"format": "deny"}).content == b""


def test_a_large_export_comes_in_pieces_and_whole(tmp_path: Path) -> None:
    desk = ReviewDesk(f"sqlite:///{tmp_path / 'reviews.sqlite'}")
    desk.create([NewReview("run", f"s{number}", note="x" * 4000) for number in range(200)], "ana", "r0")
    pieces: list[bytes] = []
    desk.export("csv", ReviewFilter(), False, pieces.append)
    assert len(pieces) > 2
    assert len(list(csv.DictReader(io.StringIO(b"".join(pieces).decode())))) == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/v1/reviews", {"reviews": []}, 422, "body.reviews"),
        ("POST", "/v1/reviews", {"reviews": [{"sample_id": "x", "verdict": "keep"}]}, 422, "verdict"),
        ("POST", "/v1/reviews", {"reviews": [{"sample_id": "x", "picture_id": "../x"}]}, 422, "picture_id"),
        ("POST", "/v1/reviews", {"reviews": [{"sample_id": "x", "note": "x" * 4001}]}, 422, "note"),
        ("GET", "/v1/reviews?verdict=burn", None, 422, "query.verdict"),
        ("GET", "/v1/reviews?after=x", None, 422, "leave it out"),
        ("GET", "/v1/reviews?limit=0", None, 422, "query.limit"),
        ("GET", "/v1/reviews?group=artist", None, 422, "together"),
        ("GET", "/v1/reviews?sample_id=a%00b", None, 422, "U+0000"),
        ("GET", "/v1/reviews/0", None, 422, "review_id"),
        ("GET", "/v1/reviews/77", None, 404, "no review 77"),
        ("GET", f"/v1/reviews/{2**63 - 1}", None, 404, "no review"),
        ("GET", "/v1/reviews/77/history", None, 404, "no review 77"),
        ("PATCH", "/v1/reviews", {"changes": [{"id": 77, "version": 1, "verdict": "keep"}]}, 404, "77"),
        ("PATCH", "/v1/reviews", {"changes": [{"id": 2**63, "version": 1}]}, 422, "changes.0.id"),
        ("PATCH", "/v1/reviews", {"changes": [SEEN, SEEN]}, 422, "twice"),
        (
            "PATCH",
            "/v1/reviews",
            {"changes": [{"id": 1, "version": 1, "verdict": "keep", "reopen": True}]},
            422,
            "both",
        ),
        ("GET", "/v1/reviews/export", None, 422, "query.format"),
        ("GET", "/v1/reviews/export?format=deny&state=open", None, 422, "leave the filters out"),
        ("GET", "/v1/reviews/export?format=csv&licence_issues=true", None, 422, "format deny"),
        ("GET", "/v1/reviews/export?format=csv&text=%01", None, 422, "U+0001"),
    ],
)
def test_bad_requests_say_what_to_change(
    desk: TestClient, method: str, path: str, body: dict | None, status: int, words: str
) -> None:
    answer = desk.request(method, path, json=body)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_reading_and_reviewing_are_apart(client_with: Callable[[str], TestClient], secrets: dict[str, str]) -> None:
    reader, reviewer = client_with(secrets["read"]), client_with(secrets["review"])
    assert reader.get("/v1/reviews").status_code == 200
    assert reader.post("/v1/reviews", json={"reviews": [{"sample_id": "x"}]}).status_code == 403
    assert reader.patch("/v1/reviews", json={"changes": [SEEN]}).status_code == 403
    assert reviewer.get("/v1/reviews").status_code == 403
    assert reviewer.get("/v1/reviews/export?format=csv").status_code == 403


def test_groups_that_a_review_cannot_hold_are_left_out() -> None:
    assert fitting_groups({"a": "x", "b": "", "c": "y" * 201, "d": " z", "e": "tab\t"}) == {"a": "x"}


def test_a_desk_whose_replica_is_gone_is_a_503(settings: ServeSettings, make_core: Cores) -> None:
    class Gone:
        def export(self, *_: object) -> None:
            raise unavailable("being replaced")

    core = make_core(settings)
    core.parts = replace(core.parts, reviews=LocalPart(Gone()))
    _, secret = Tokens(Database.open(settings.database_url)).create("exporter", ["read"])
    client = TestClient(make_api(core), headers={"Authorization": f"Bearer {secret}"})
    answer = client.get("/v1/reviews/export?format=csv")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
