"""What a caller is told when Ray Serve's proxy has no answer of the gateway's to pass on."""

import importlib

import httpx2
import pytest
from fastapi.testclient import TestClient
from ray.serve._private.http_util import RequestIdMiddleware, validate_http_proxy_callback_return

from forebear_serve.problems import MEDIA_TYPE
from forebear_serve.proxy import IMPORT_PATH, middlewares

TEXT = [(b"content-type", b"text/plain; charset=utf-8")]


def asked(
    status: int | None, headers: list[tuple[bytes, bytes]], path: str = "/v1/x", *, ends: bool = True
) -> httpx2.Response:
    """What comes of an answer that the proxy would send, wrapped as Ray Serve wraps it; None: it sends none."""

    async def app(scope, receive, send) -> None:
        if status is not None:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"Traceback in /srv/forebear", "more_body": not ends})
        if not ends:
            raise RuntimeError("the replica died")

    (frame,) = validate_http_proxy_callback_return(middlewares())
    wrapped = frame.cls(RequestIdMiddleware(app))
    return TestClient(wrapped).get(path, headers={"X-Request-ID": "asked-once"})


@pytest.mark.parametrize(("status", "told"), [(None, 503), (503, 503), (408, 503), (429, 429)])
def test_what_only_the_proxy_says_becomes_problem_details(status: int | None, told: int) -> None:
    answer = asked(status, TEXT)
    assert answer.status_code == told
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    assert answer.headers["Retry-After"].isdecimal()
    assert answer.headers.get_list("X-Request-ID") == ["asked-once"]
    assert answer.json()["instance"] == "asked-once"
    assert answer.json()["status"] == told
    assert "srv" not in answer.text


@pytest.mark.parametrize(
    ("status", "kind"), [(200, "text/plain"), (404, "text/plain"), (500, MEDIA_TYPE), (503, MEDIA_TYPE)]
)
def test_the_gateways_own_answers_pass_with_one_request_id(status: int, kind: str) -> None:
    answer = asked(status, [(b"content-type", kind.encode()), (b"x-request-id", b"asked-once")])
    assert answer.status_code == status
    assert answer.text == "Traceback in /srv/forebear"
    assert answer.headers.get_list("X-Request-ID") == ["asked-once"]


def test_an_answer_that_breaks_off_is_cut_rather_than_made_to_look_whole() -> None:
    with pytest.raises(RuntimeError, match="died"):
        asked(200, TEXT, ends=False)


def test_rays_own_routes_are_left_alone() -> None:
    assert asked(503, TEXT, "/-/healthz").text == "Traceback in /srv/forebear"


def test_the_proxy_finds_it_by_the_name_in_its_environment() -> None:
    module, _, name = IMPORT_PATH.rpartition(".")
    assert getattr(importlib.import_module(module), name) is middlewares
