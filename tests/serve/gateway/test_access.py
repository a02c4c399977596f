"""Tokens, scopes, rates, sizes, ids: what every route has around it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from forebear_serve.database import Database, Tokens
from forebear_serve.gateway.access import Access, RateLimit
from forebear_serve.gateway.api import make_api
from forebear_serve.gateway.core import Core
from forebear_serve.problems import MEDIA_TYPE
from forebear_serve.settings import ServeSettings

OPEN = {("get", "/v1/health")}


def routes(api: FastAPI) -> list[tuple[str, str]]:
    found = [(method, path) for path, methods in api.openapi()["paths"].items() for method in methods]
    assert len(found) > 10
    return [one for one in found if one not in OPEN]


def test_every_route_refuses_a_missing_wrong_expired_or_revoked_token(
    api: FastAPI, client_with: Callable[[str], TestClient], settings: ServeSettings
) -> None:
    tokens = Tokens(Database.open(settings.database_url))
    _, expired = tokens.create("short-lived", ["admin"], timedelta(microseconds=1))
    _, revoked = tokens.create("taken back", ["admin"])
    tokens.revoke("taken back")
    for secret in ("", "fb_wrong", expired, revoked):
        for method, path in routes(api):
            answer = client_with(secret).request(method, path)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["instance"] == answer.headers["X-Request-ID"]


def test_scopes_are_kept_apart(client_with: Callable[[str], TestClient], secrets: dict[str, str]) -> None:
    reader, maker = client_with(secrets["read"]), client_with(secrets["generate"])
    assert reader.get("/v1/samples").status_code == 200
    assert reader.post("/v1/generate", json={"label": 1, "steps": 1}).status_code == 403
    assert maker.get("/v1/samples").status_code == 403
    assert maker.post("/v1/generate", json={"label": 1, "steps": 1}).status_code == 200


def test_a_token_is_told_what_it_allows(client_with: Callable[[str], TestClient], settings: ServeSettings) -> None:
    tokens = Tokens(Database.open(settings.database_url))
    for name, scopes, allowed in (
        ("who reviews", ["review", "read"], ["read", "review"]),
        ("who makes", ["generate"], ["generate"]),
        ("who runs it", ["admin"], ["read", "generate", "review", "admin"]),
    ):
        made, secret = tokens.create(name, scopes, timedelta(days=1))
        told = client_with(secret).get("/v1/token").json()
        assert (told["name"], told["scopes"]) == (name, allowed)
        assert datetime.fromisoformat(told["expires"]) == made.expires
        assert secret not in str(told)


def test_errors_of_the_framework_are_problem_details_too(client: TestClient) -> None:
    for answer, status in ((client.get("/v1/nothing"), 404), (client.delete("/v1/samples"), 405)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
        assert answer.json()["instance"] == answer.headers["X-Request-ID"]


def test_a_mistake_of_our_own_is_problem_details_without_its_words(
    settings: ServeSettings, make_core: Callable[[ServeSettings], Core], secrets: dict[str, str]
) -> None:
    class Broken:
        async def call(self, method: str, *args: object) -> None:
            raise RuntimeError("secret of /srv/forebear")

    core = make_core(settings)
    core.parts = replace(core.parts, catalogue=Broken())
    headers = {"Authorization": f"Bearer {secrets['read']}", "X-Request-ID": "asked-once"}
    answer = TestClient(make_api(core), headers=headers, raise_server_exceptions=False).get("/v1/samples")
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    assert answer.json()["instance"] == "asked-once"
    assert "secret" not in answer.text


def test_a_callers_request_id_is_taken_over_when_it_is_harmless(client: TestClient) -> None:
    assert (
        client.get("/v1/groups", headers={"X-Request-ID": "audit-2026-11"}).headers["X-Request-ID"] == "audit-2026-11"
    )
    strange = client.get("/v1/groups", headers={"X-Request-ID": "a\tb" * 5}).headers["X-Request-ID"]
    assert len(strange) == 32


@pytest.mark.parametrize("path", ["/v1/pictures", "/v1/generate", "/v1/attribute"])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(client: TestClient, path: str) -> None:
    answer = client.post(path, content=b"x" * 200_001)
    assert answer.status_code == 413
    assert "200,000 bytes" in answer.json()["detail"]

    def parts():
        for _ in range(300):
            yield b"x" * 1000

    assert client.post(path, content=parts()).status_code == 413


def test_no_page_may_call_from_elsewhere(client: TestClient) -> None:
    answer = client.get("/v1/groups", headers={"Origin": "https://example.org"})
    assert "access-control-allow-origin" not in answer.headers


@given(st.integers(1, 50), st.lists(st.floats(0.0, 30.0), min_size=1, max_size=60))
def test_a_rate_is_never_exceeded(per_minute: int, pauses: list[float]) -> None:
    now = 0.0
    rate = RateLimit(per_minute, lambda: now)
    passed = []
    for pause in pauses:
        now += pause
        wait = rate.wait("someone")
        if wait == 0.0:
            passed.append(now)
        else:
            assert wait <= 60.0 / per_minute + 1e-9
        assert rate.wait("someone else") == 0.0 or len(pauses) > per_minute
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= per_minute + (passed[last] - start) * per_minute / 60.0 + 1 + 1e-6


def test_a_token_that_is_used_up_is_told_when_to_come_back(settings: ServeSettings, api: FastAPI) -> None:
    database = Database.open(settings.database_url)
    _, secret = Tokens(database).create("eager", ["generate", "read"])
    limited = make_api(replace(api.state.core, access=Access(database, 100, 5)))
    client = TestClient(limited, headers={"Authorization": f"Bearer {secret}"})
    answers = [client.post("/v1/generate", json={"label": 1, "steps": 0}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [422] * 5 + [429]
    assert 1 <= int(answers[5].headers["Retry-After"]) <= 13
    assert client.get("/v1/groups").status_code == 200
