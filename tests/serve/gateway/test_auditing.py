"""/v1/audits against the library's own figures, without removed samples, and what is kept."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from forebear.attribution.decoded import DecodedPictures
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.isolation import isolation, nearest_by_cosine, received
from forebear.evaluation.specificity import store_norms
from forebear.run import Run
from forebear.store import remove_samples
from forebear_serve.audit_schemas import Nearness, OutlierScore
from forebear_serve.engine import auditing
from forebear_serve.engine.auditing import Audits
from forebear_serve.problems import Problem
from forebear_serve.settings import ServeSettings


@pytest.fixture(scope="module")
def evaluated(served_run: Run) -> EvaluatedRun:
    return EvaluatedRun.open(served_run)


@pytest.fixture
def audits(copied_run: Run, settings: ServeSettings) -> Audits:
    return Audits(copied_run.folder, "retrac", settings.limits)


def all_of(client: TestClient, path: str, entries: str, **params: Any) -> list[dict]:
    """Every entry, page by page."""
    found, after = [], 0
    while after is not None:
        page = client.get(f"/v1/audits/{path}", params={**params, "after": after, "limit": 7}).json()
        found += page[entries]
        after = page["next"]
        assert page["total"] >= len(found)
    assert [one["rank"] for one in found] == list(range(1, len(found) + 1))
    return found


@pytest.mark.parametrize(("score", "sign"), [("self", -1), ("support", 1), ("isolation", -1)])
def test_outliers_are_all_samples_the_strangest_first(
    client: TestClient, evaluated: EvaluatedRun, score: str, sign: int
) -> None:
    own, support = received(evaluated, "retrac")
    values = {"self": own, "support": support, "isolation": isolation(evaluated, "retrac", 0.05)}[score]
    found = all_of(client, "outliers", "outliers", score=score, estimator="retrac")
    order = np.argsort(sign * values, kind="stable")
    assert [one["sample"]["row"] for one in found] == order.tolist()
    assert [one["value"] for one in found] == pytest.approx(values[order])
    assert found[0]["sample"] == client.get(f"/v1/samples/{found[0]['sample']['id']}").json()


def test_influential_samples_and_concentration_are_of_the_same_shares(client: TestClient) -> None:
    found = all_of(client, "influential", "influential", estimator="retrac")
    influence = [one["influence"] for one in found]
    assert influence == sorted(influence, reverse=True)
    assert sorted(one["sample"]["row"] for one in found) == list(range(24))
    shares = np.array([one["share"] for one in found])
    assert shares.sum() == pytest.approx(1.0)
    told = client.get("/v1/audits/concentration", params={"estimator": "retrac"}).json()
    gaps = np.abs(shares[:, None] - shares).mean() / 2 / shares.mean()  # Gini by mean differences
    assert told["gini"] == pytest.approx(gaps, abs=1e-6)
    assert (len(told["lorenz"]), told["lorenz"][0], told["lorenz"][100]) == (101, 0.0, pytest.approx(1.0))
    assert told["lorenz"][50] == pytest.approx(np.sort(shares)[:12].sum())
    assert (told["references"], told["samples"]) == (24, 24)


def test_duplicates_are_the_nearest_pairs_once(client: TestClient, evaluated: EvaluatedRun) -> None:
    pictures = DecodedPictures.of(evaluated.run, evaluated.training_set, 3, 8).fine.astype(np.float64) / 255.0
    apart = np.sqrt(np.square(pictures[:, None] - pictures).mean((2, 3, 4)))
    np.fill_diagonal(apart, np.inf)
    expected = {tuple(sorted((row, int(apart[row].argmin())))) for row in range(24)}
    found = all_of(client, "duplicates", "duplicates")
    pairs = [(one["first"]["row"], one["second"]["row"]) for one in found]
    assert set(pairs) == expected
    assert len(pairs) == len(expected)
    assert [one["value"] for one in found] == pytest.approx(sorted(apart[pair] for pair in pairs))
    near = all_of(client, "duplicates", "duplicates", measure="gradient", estimator="retrac-matched")
    assert near[0]["value"] == pytest.approx(nearest_by_cosine(evaluated, "retrac-matched")[1].max())
    assert not any(one["same"] for one in near)
    assert len(all_of(client, "duplicates", "duplicates", measure="shifted")) >= 12


def test_norms_and_groups_are_summaries_of_the_store(client: TestClient, evaluated: EvaluatedRun) -> None:
    told = client.get("/v1/audits/norms").json()["checkpoints"]
    assert told == store_norms(evaluated)
    own, _ = received(evaluated, "retrac")
    (column,) = client.get("/v1/audits/groups", params={"estimator": "retrac", "group": "class"}).json()
    held = np.array([one.groups["class"] for one in evaluated.training_set.samples])
    assert column["distinct"] == len(column["values"]) == len(set(held))
    sizes = [one["samples"] for one in column["values"]]
    assert sizes == sorted(sizes, reverse=True)
    for one in column["values"]:
        assert one["samples"] == (held == one["value"]).sum()
        assert one["self_influence"] == pytest.approx(own[held == one["value"]].mean())
    assert sum(one["share"] for one in column["values"]) == pytest.approx(1.0)
    assert sum(one["influential"] * one["samples"] for one in column["values"]) == pytest.approx(2)  # 5 % of 24, up
    (short,) = client.get("/v1/audits/groups", params={"group": "class", "limit": 2}).json()
    assert (len(short["values"]), short["distinct"]) == (2, column["distinct"])


def in_pairs(audits: Audits, measure: Nearness) -> list[str]:
    pairs = audits.duplicates(measure, None, 0, 500).duplicates
    return [one.id for pair in pairs for one in (pair.first, pair.second)]


def test_removed_samples_are_in_no_audit(audits: Audits, copied_run: Run) -> None:
    before = audits.outliers(None, OutlierScore.SELF, 0, 24)
    gone = before.outliers[0].sample.id
    partners = audits.duplicates(Nearness.PIXEL, None, 0, 500).duplicates[0]
    remove_samples(copied_run.store_folder, [gone, partners.first.id], "a test")
    left = 24 - len({gone, partners.first.id})
    pages = [audits.outliers(None, score, 0, 500) for score in OutlierScore]
    for found in (
        *([one.sample.id for one in page.outliers] for page in pages),
        [one.sample.id for one in audits.influential(None, 0, 500).influential],
        [
            one.id
            for pair in audits.duplicates(Nearness.PIXEL, None, 0, 500).duplicates
            for one in (pair.first, pair.second)
        ],
        [
            one.id
            for pair in audits.duplicates(Nearness.GRADIENT, None, 0, 500).duplicates
            for one in (pair.first, pair.second)
        ],
    ):
        assert not {gone, partners.first.id} & set(found)
        assert len(set(found)) <= left
    assert len(pages[0].outliers) == left
    assert audits.concentration(None).samples == left
    assert sum(one.samples for one in audits.groups(None, None, 100)[0].values) == left
    values = {one.sample.id: one.value for one in before.outliers}
    assert [one.value for one in pages[0].outliers] == pytest.approx(
        [values[one.sample.id] for one in pages[0].outliers]
    )


def test_what_was_computed_is_kept_in_the_run_until_samples_change(
    audits: Audits, copied_run: Run, settings: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = audits.influential(None, 0, 24)
    asked: list[int] = []
    own = auditing.given
    monkeypatch.setattr(auditing, "given", lambda *args: asked.append(1) or own(*args))
    again = Audits(copied_run.folder, "retrac", settings.limits)
    assert again.influential(None, 0, 24) == first
    assert again.concentration(None).samples == 24
    assert asked == []
    (copied_run.folder / "audits" / "given-retrac.npz").write_bytes(b"damaged")
    assert Audits(copied_run.folder, "retrac", settings.limits).influential(None, 0, 24) == first
    assert asked == [1]
    remove_samples(copied_run.store_folder, [first.influential[0].sample.id], "a test")
    assert again.influential(None, 0, 24).total == 23
    assert asked == [1, 1]


def test_a_long_audit_goes_on_while_the_caller_is_sent_away(
    copied_run: Run, settings: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = Audits(copied_run.folder, "retrac", replace(settings.limits, seconds=0.1))
    go_on, own = threading.Event(), auditing.given
    monkeypatch.setattr(auditing, "given", lambda *args: go_on.wait(30) and own(*args))
    for _ in range(2):
        with pytest.raises(Problem, match="goes on; ask again") as away:
            hurried.influential(None, 0, 5)
        assert (away.value.status, away.value.headers) == (503, {"Retry-After": "10"})
    go_on.set()
    patient = next(iter(hurried._known.results.values()))
    patient.result(30)
    assert hurried.influential(None, 0, 5).total == 24


def test_an_audit_that_failed_is_tried_again(audits: Audits, monkeypatch: pytest.MonkeyPatch) -> None:
    own = auditing.given

    def fail(*_: object) -> None:
        raise OSError("the disk was away")

    monkeypatch.setattr(auditing, "given", fail)
    with pytest.raises(OSError, match="away"):
        audits.influential(None, 0, 5)
    monkeypatch.setattr(auditing, "given", own)
    assert audits.influential(None, 0, 5).total == 24


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("outliers?estimator=nonsense", "nonsense"),
        ("outliers?estimator=dtrak", "dtrak"),
        ("outliers?score=beauty", "query.score"),
        ("outliers?limit=0", "query.limit"),
        ("influential?after=-1", "query.after"),
        ("influential?estimator=embedding", "embedding"),
        ("duplicates?estimator=retrac", "measure gradient"),
        ("duplicates?measure=gradient&estimator=x", "x"),
        ("groups?group=artist", "no group column artist; choose of class"),
    ],
)
def test_bad_requests_say_what_to_change(client: TestClient, path: str, words: str) -> None:
    answer = client.get(f"/v1/audits/{path}")
    assert (answer.status_code, words in answer.json()["detail"]) == (422, True), answer.text
    assert "/tmp" not in answer.text


def test_pages_beyond_the_end_are_empty(client: TestClient) -> None:
    page = client.get("/v1/audits/outliers", params={"after": 2**62}).json()
    assert (page["outliers"], page["next"], page["total"]) == ([], None, 24)


def test_audits_need_the_scope_read(client_with: Callable[[str], TestClient], secrets: dict[str, str]) -> None:
    assert client_with(secrets["read"]).get("/v1/audits/norms").status_code == 200
    assert client_with(secrets["review"]).get("/v1/audits/norms").status_code == 403
