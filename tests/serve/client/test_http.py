"""Both HTTP clients over the whole API in this process, by httpx's transports."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from forebear.errors import ConfigError
from forebear.run import Run
from forebear_serve.client import AsyncClient, Client, RefusedError, UnreachableError
from forebear_serve.client.connection import pause
from forebear_serve.database import Verdict
from forebear_serve.engine.jobs import Jobs
from forebear_serve.gateway.api import make_api
from forebear_serve.parts import LocalPart
from forebear_serve.review_schemas import ReviewChange, ReviewRequest
from forebear_serve.schemas import Picture, Progressed, Timings, Traced

ADDRESS = "http://127.0.0.1:9"


class Bridge(httpx2.BaseTransport):
    """Sends what the waiting client sends to the API, which speaks asyncio."""

    def __init__(self, api: FastAPI) -> None:
        self._client = TestClient(api)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.raw_path.decode()
        answer = self._client.request(request.method, path, content=request.read(), headers=dict(request.headers))
        headers = {name: value for name, value in answer.headers.items() if name != "content-encoding"}
        return httpx2.Response(answer.status_code, headers=headers, content=answer.content)


@pytest.fixture
def asking(api: FastAPI, secrets: dict[str, str]) -> Iterator[Client]:
    with Client(ADDRESS, secrets["admin"], transport=Bridge(api)) as client:
        yield client


def test_a_program_makes_a_picture_and_traces_it(asking: Client) -> None:
    made = asking.generate(label=2, seed=21, steps=4, attribute=True)
    assert made.traced is not None
    top = made.traced.attributions[0].proponents[0]
    sample = asking.sample(top.sample_id)
    assert sample.row == top.row
    assert asking.sample_image(sample.id, 64).size == asking.sample_image(sample.id).size
    again = asking.attribute(made.picture, estimators=("retrac",), top_k=5)
    assert len(again.attributions[0].proponents) == 5
    assert asking.picture(made.picture.id).request == made.picture.request
    assert asking.picture_image(made.picture.id).size == (8, 8)
    assert asking.health().status == "ok"
    assert asking.index().samples == 24
    assert asking.token().scopes == ("read", "generate", "review", "admin")
    assert [one.name for one in asking.generators()] == ["fp32"]
    assert {one.name for one in asking.estimators()} >= {"retrac", "retrac-ridge"}
    assert all(group.distinct for group in asking.groups())


def test_own_pictures_are_traced_by_path_bytes_or_object(asking: Client, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8))
    picture.save(tmp_path / "mine.png")
    kept = asking.upload(picture)
    answers = [
        asking.attribute(one, label=1, estimators=("retrac",)).attributions[0].proponents
        for one in (picture, tmp_path / "mine.png", (tmp_path / "mine.png").read_bytes(), kept)
    ]
    assert answers[0] == answers[1] == answers[2] == answers[3]
    with pytest.raises(ConfigError, match="cannot be read"):
        asking.upload(tmp_path / "none.png")


def test_all_samples_turns_the_pages(asking: Client) -> None:
    assert [one.row for one in asking.all_samples()] == list(range(24))


def test_a_stream_tells_what_happens(asking: Client) -> None:
    told = list(asking.stream(label=1, seed=22, steps=3, attribute=True))
    assert [type(one) for one in told] == [Progressed] * 3 + [Picture, Traced, Timings]
    with pytest.raises(RefusedError, match="came with 77") as refused:
        list(asking.stream(label=77, steps=3))
    assert refused.value.status == 422


def test_refusals_carry_the_servers_reason(asking: Client, api: FastAPI) -> None:
    with pytest.raises(RefusedError, match="no training image nobody") as refused:
        asking.sample("nobody")
    assert (refused.value.status, refused.value.problem["type"]) == (404, "urn:forebear:problem:not-found")
    assert str(refused.value) == refused.value.problem["detail"]
    with Client(ADDRESS, "fb_wrong", transport=Bridge(api)) as stranger, pytest.raises(RefusedError, match="not known"):
        stranger.groups()


def test_a_program_reviews_what_it_found(asking: Client) -> None:
    ids = [one.id for one in asking.samples(limit=3).samples]
    made = asking.create_reviews([ReviewRequest(sample_id=one, note="found by a program") for one in ids])
    reviews = [one.review for one in made]
    assert asking.review(reviews[0].id) == reviews[0]
    changes = [ReviewChange(id=one.id, version=one.version, verdict=Verdict.REMOVE) for one in reviews[:2]]
    judged = asking.change_reviews(changes)
    assert [one.verdict for one in judged] == ["remove", "remove"]
    with pytest.raises(RefusedError, match="a admin") as refused:
        asking.change_reviews(changes)
    assert refused.value.status == 409
    assert [one.action for one in asking.review_history(judged[0].id)] == ["create", "change"]
    assert asking.reviews(text="by a program", limit=1).total == 3
    assert [one.id for one in asking.all_reviews(verdict="remove", text="by a program")] == [
        one.id for one in judged[::-1]
    ]
    assert asking.export_reviews("deny").decode().split() == sorted(ids[:2])
    assert asking.export_reviews("csv", verdict="remove").count(b"found by a program") == 2
    with pytest.raises(ValueError, match="xlsx"):
        asking.export_reviews("xlsx")


def test_a_program_audits_the_training_set(asking: Client) -> None:
    page = asking.outliers("isolation", estimator="retrac", limit=5)
    following = asking.outliers("isolation", estimator="retrac", limit=5, after=page.next or 0)
    assert [one.rank for one in (*page.outliers, *following.outliers)] == list(range(1, 11))
    assert asking.influential(limit=3).estimator == "retrac-ridge"
    assert asking.duplicates("gradient", estimator="retrac-matched", limit=3).estimator == "retrac-matched"
    assert len(asking.concentration().lorenz) == 101
    assert len(asking.norms().checkpoints) == 2
    assert sum(one.samples for one in asking.audited_groups()[0].values) == 24
    with pytest.raises(RefusedError, match=r"query\.score"):
        asking.outliers("beauty")


def test_programs_start_and_cancel_jobs(api: FastAPI, secrets: dict[str, str], copied_run: Run) -> None:
    core, sleeping = api.state.core, Jobs(copied_run.folder, lambda *_: ["/bin/sleep", "60"])
    with_jobs = make_api(replace(core, parts=replace(core.parts, jobs=LocalPart(sleeping))))
    with Client(ADDRESS, secrets["admin"], transport=Bridge(with_jobs)) as client:
        job = client.start_job("evaluate", evaluation="tracing", queries=8)
        with pytest.raises(RefusedError, match="still runs") as refused:
            client.start_job("embed")
        assert refused.value.status == 409
        assert client.jobs()[0].options == {"evaluation": "tracing", "estimators": [], "queries": 8}
        client.cancel_job(job.id)
        with pytest.raises(ValueError, match="restart"):
            client.start_job("embed", restart=True)

    async def ask() -> None:
        transport = httpx2.ASGITransport(app=with_jobs)
        async with AsyncClient(ADDRESS, secrets["admin"], transport=transport) as client:
            while (await client.job(job.id)).state == "running":
                await asyncio.sleep(0.05)
            again = await client.start_job("index", estimators=["retrac"])
            assert [one.id for one in await client.jobs()] == [again.id, job.id]
            assert (await client.cancel_job(again.id)).id == again.id

    asyncio.run(ask())


def test_missing_tokens_servers_and_addresses_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOREBEAR_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="set FOREBEAR_TOKEN"):
        Client(ADDRESS)
    with pytest.raises(ConfigError, match="is no address"):
        Client("localhost:8000", "fb_x")
    with (
        Client(ADDRESS, "fb_x", retries=0) as client,
        pytest.raises(UnreachableError, match="is `forebear serve` running"),
    ):
        client.groups()


def test_a_busy_server_is_asked_again_when_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    answers = iter(
        [httpx2.Response(429, headers={"Retry-After": "4"}), httpx2.Response(503), httpx2.Response(200, json=[])]
    )
    transport = httpx2.MockTransport(lambda _: next(answers))
    with Client(ADDRESS, "fb_x", transport=transport) as client:
        assert client.groups() == ()
    assert 4.0 <= waited[0] <= 5.0
    assert 1.0 <= waited[1] <= 1.25
    assert pause(10, {}) <= 37.5


def test_asyncio_has_the_same_methods(api: FastAPI, secrets: dict[str, str]) -> None:
    async def ask() -> None:
        transport = httpx2.ASGITransport(app=api)
        async with AsyncClient(ADDRESS, secrets["admin"], transport=transport) as client:
            assert (await client.token()).name == "a admin"
            made = await client.generate(label=3, seed=23, steps=3, attribute=True)
            assert made.traced is not None
            told = [one async for one in client.stream(label=3, seed=24, steps=3)]
            assert [type(one) for one in told] == [Progressed] * 3 + [Picture, Timings]
            assert len([one async for one in client.all_samples()]) == 24
            with pytest.raises(RefusedError):
                await client.sample("nobody")
            assert (await client.influential(limit=1)).total == 24
            assert (await client.outliers(limit=1)).outliers[0].rank == 1
            assert (await client.duplicates(limit=1)).duplicates[0].rank == 1
            assert (await client.concentration()).samples == 24
            assert (await client.norms()).checkpoints
            assert (await client.audited_groups("class"))[0].name == "class"
            await reviewed(client, made.traced.attributions[0].proponents[0].sample_id)

    async def reviewed(client: AsyncClient, sample_id: str) -> None:
        (opened,) = await client.create_reviews([ReviewRequest(sample_id=sample_id, picture_id="a" * 32)])
        change = ReviewChange(id=opened.review.id, version=1, verdict=Verdict.KEEP)
        (kept,) = await client.change_reviews([change])
        assert await client.review(kept.id) == kept
        assert [one async for one in client.all_reviews(picture_id="a" * 32)] == [kept]
        assert len(await client.review_history(kept.id)) == 2
        assert b"PAR1" in await client.export_reviews("parquet", picture_id="a" * 32)

    asyncio.run(ask())


def test_the_two_clients_offer_the_same() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
