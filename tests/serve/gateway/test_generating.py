"""POST /v1/generate: the picture, the stream, early attribution, what is refused."""

import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from forebear.attribution import Attributor
from forebear.images import to_picture
from forebear.run import Run
from forebear_generators.generator import Generator, Request
from forebear_serve.gateway.api import make_api

ASKED = {"label": 3, "seed": 7, "steps": 6}


def events(client: TestClient, asked: dict) -> list[tuple[str, dict]]:
    headers = {"Accept": "text/event-stream"}
    with client.stream("POST", "/v1/generate", json=asked, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    names, data = lines[::2], lines[1::2]
    return [
        (name.removeprefix("event: "), json.loads(body.removeprefix("data: ")))
        for name, body in zip(names, data, strict=True)
    ]


def pixels(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_the_picture_is_the_generators_own(client: TestClient, served_run: Run) -> None:
    answer = client.post("/v1/generate", json=ASKED)
    assert answer.status_code == 200
    own = Generator.load(served_run.model_folder).pictures([""], [7], labels=[3], steps=6)[0]
    assert np.array_equal(pixels(answer.json()["picture"]["png"]), np.asarray(own))
    assert answer.json()["traced"] is None


def test_the_stream_tells_of_each_step_then_the_picture_then_its_ancestors(client: TestClient) -> None:
    told = events(client, {**ASKED, "seed": 8, "attribute": {"top_k": 5}})
    names = [name for name, _ in told]
    assert names == ["progress"] * 6 + ["picture", "attribution", "done"]
    assert [one["done"] for name, one in told if name == "progress"] == [1, 2, 3, 4, 5, 6]
    assert pixels(told[4][1]["preview"]).shape == (8, 8, 3)
    traced = told[-2][1]
    assert len(traced["attributions"][0]["proponents"]) == 5
    assert traced["preliminary"] == [traced["attributions"][0]["fingerprint"]["checkpoints"][0]["name"]]
    assert {"generate", "embed_early", "embed", "score", "after_picture"} <= set(told[-1][1]["stages"])


def test_exact_mode_gives_the_librarys_own_answer(client: TestClient, served_run: Run) -> None:
    asked = {**ASKED, "seed": 9, "attribute": {"mode": "exact", "estimators": ["retrac-matched", "pixel"], "top_k": 24}}
    told = client.post("/v1/generate", json=asked).json()
    assert told["traced"]["preliminary"] == []
    made = Generator.load(served_run.model_folder)
    array = made.run(Request(("",), (3,), (9,), steps=6)).pixels[0].numpy()
    given = np.asarray(to_picture(array).convert("L"), np.float32)[None] / 127.5 - 1  # what is sent has eight bits
    own = Attributor.open(served_run.folder).attribute(given, "", 3, "retrac-matched", 24)
    served = told["traced"]["attributions"][0]
    assert [one["sample_id"] for one in served["proponents"]] == [one.sample_id for one in own.proponents]
    assert [one["score"] for one in served["proponents"]] == pytest.approx([one.score for one in own.proponents])
    assert served["memorisation"]["nearest"]
    again = client.post("/v1/generate", json=asked).json()
    assert again["picture"]["cached"]
    assert again["traced"]["attributions"][0]["proponents"] == served["proponents"]
    assert served["sign"] == own.sign


def test_early_attribution_is_close_to_that_of_the_final_picture(client: TestClient) -> None:
    """One of two checkpoints measures the sight at step 4 of 6: the scores hardly move."""
    asked = {**ASKED, "seed": 10, "steps": 20, "attribute": {"estimators": ["retrac"], "top_k": 24}}
    early = client.post("/v1/generate", json=asked).json()
    again = client.post("/v1/attribute", json={"picture": early["picture"]["id"], "options": asked["attribute"]}).json()
    assert again["preliminary"] == []
    assert early["traced"]["preliminary"] != []
    first, second = (
        {one["sample_id"]: one["score"] for one in traced["attributions"][0]["proponents"]}
        for traced in (early["traced"], again)
    )
    assert np.corrcoef([first[name] for name in first], [second[name] for name in first])[0, 1] > 0.95


def test_a_generator_that_took_over_does_not_tell_of_steps_again(settings, make_core, secrets) -> None:
    core = make_core(settings)
    maker = core.parts.makers["fp32"]

    class TakenOver:
        """Its first replica dies after three steps."""

        async def stream(self, method: str, *args: Any) -> AsyncIterator[Any]:
            dying = maker.stream(method, *args)
            for _ in range(3):
                yield await anext(dying)
            await dying.aclose()
            async for event in maker.stream(method, *args):
                yield event

    core.parts.makers["fp32"] = TakenOver()
    client = TestClient(make_api(core), headers={"Authorization": f"Bearer {secrets['admin']}"})
    told = events(client, {**ASKED, "seed": 13, "attribute": {}})
    assert [name for name, _ in told] == ["progress"] * 6 + ["picture", "attribution", "done"]
    assert [one["done"] for name, one in told if name == "progress"] == [1, 2, 3, 4, 5, 6]


def test_a_picture_that_was_made_is_not_made_again(client: TestClient) -> None:
    first = client.post("/v1/generate", json={**ASKED, "seed": 11}).json()["picture"]
    told = events(client, {**ASKED, "seed": 11, "attribute": {}})
    assert [name for name, _ in told] == ["picture", "attribution", "done"]
    assert not first["cached"]
    assert told[0][1]["cached"]
    assert {**told[0][1], "cached": False} == first


def test_the_request_in_a_picture_makes_it_again(client: TestClient) -> None:
    picture = client.post("/v1/generate", json={**ASKED, "seed": 12, "attribute": {}}).json()["picture"]
    info = client.get(f"/v1/pictures/{picture['id']}").json()
    assert client.post("/v1/generate", json=info["request"]).json()["picture"]["id"] == picture["id"]
    assert client.get(f"/v1/pictures/{picture['id']}/image").content == base64.b64decode(picture["png"])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"label": None}, "came with none; give a label"),
        ({"label": 10}, "came with 10"),
        ({"prompt": "cat"}, "takes no prompt"),
        ({"prompt": "x" * 101}, "101 characters; this server takes at most 100"),
        ({"steps": 21}, "at most 20"),
        ({"steps": 0}, "body.steps"),
        ({"sampler": "euler"}, "samplers are own"),
        ({"generator": "w2a2"}, "no generator w2a2; choose one of fp32"),
        ({"seed": -1}, "body.seed"),
        ({"guidance": "nan"}, "body.guidance"),
        ({"stesp": 5}, "body.stesp"),
        ({"attribute": {"top_k": 51}}, "at most 50"),
        ({"attribute": {"estimators": ["tracin"]}}, "no index for tracin; choose one of retrac"),
        ({"attribute": {"estimators": ["nonsense"]}}, "nonsense"),
        ({"attribute": {"region": {}}}, "either a box or a mask"),
        ({"attribute": {"groups": ["artist"]}}, "no group column artist"),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_bad_requests_say_what_to_change(client: TestClient, asked: dict, words: str, accept: str) -> None:
    answer = client.post("/v1/generate", json={**ASKED, **asked}, headers={"Accept": accept})
    told = answer.text if accept.endswith("stream") and "groups" in str(asked) else answer.json()["detail"]
    assert answer.status_code == (200 if answer.headers["content-type"].startswith("text/event") else 422)
    assert words in told
    assert "/tmp" not in answer.text
