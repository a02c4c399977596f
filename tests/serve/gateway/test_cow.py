"""POST /v1/generate with an image to make the picture around."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from forebear.images import to_png
from forebear.run import Run
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.sampler import cow
from forebear_generators.cow.settings import preset
from forebear_generators.generator import Generator
from forebear_serve.client.calls import generate_request

SETTINGS = {"steps": 10, "cycles": 2, "guidance": 1.0, "inversion": "canvas"}


def encoded(picture: Image.Image) -> str:
    return base64.b64encode(to_png(picture)).decode()


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (8, 8, 3), np.uint8))


@pytest.fixture
def asked(image: Image.Image) -> dict[str, Any]:
    mask = Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 8, 4))
    return {"label": 2, "seed": 5, "cow": {"image": encoded(image), "mask": encoded(mask), "settings": SETTINGS}}


def test_the_picture_is_the_librarys_own(client: TestClient, asked: dict, image: Image.Image, served_run: Run) -> None:
    answer = client.post("/v1/generate", json={**asked, "attribute": {"estimators": ["retrac"], "top_k": 3}})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    mask = Image.open(io.BytesIO(base64.b64decode(asked["cow"]["mask"])))
    own = cow(Generator.load(served_run.model_folder), [CowCondition(image, mask, "", 2, 5)], preset("scene", SETTINGS))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["picture"]["png"]))))
    assert np.array_equal(shown, np.asarray(own.pictures()[0]))
    facts = told["picture"]["facts"]
    assert (facts["calls"], facts["evaluations"], facts["cycles"]) == (own.calls, own.evaluations, own.cycles[0])
    assert facts["condition"]["psnr"] > 0
    assert 0 <= facts["share"] <= facts["explained"] <= 1
    assert len(told["traced"]["attributions"][0]["proponents"]) == 3
    again = client.post("/v1/generate", json=told["picture"]["request"]).json()["picture"]
    assert (again["id"], again["cached"]) == (told["picture"]["id"], True)


def test_progress_counts_calls(client: TestClient, asked: dict) -> None:
    headers = {"Accept": "text/event-stream"}
    with client.stream("POST", "/v1/generate", json={**asked, "seed": 6}, headers=headers) as answer:
        names = [line for line in answer.iter_lines() if line.startswith("event: ")]
    assert names[-2:] == ["event: picture", "event: done"]
    assert set(names[:-2]) == {"event: progress"}


def test_modes_are_those_of_the_library(asked: dict) -> None:
    request = generate_request("", None, {"cow": {**asked["cow"], "mode": "inpaint"}})
    assert request.cow is not None
    assert request.cow.settings == preset("inpaint", SETTINGS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 5}, "cow.settings"),
        ({"prompt": "cat"}, "no text encoder"),
        ({"cow": {"image": "!"}}, "base64"),
        ({"cow": {"image": base64.b64encode(b"no picture").decode()}}, "picture"),
        ({"cow": {"mode": "cubist"}}, "mode"),
        ({"cow": {"settings": {"steps": 21}}}, "at most 20"),
        ({"cow": {"settings": {"stepps": 21}}}, "stepps"),
        ({"cow": {"mask": encoded(Image.new("L", (5, 8), 255))}}, "mask"),
        ({"cow": {"mask": encoded(Image.new("L", (8, 8)))}}, "mask"),
    ],
)
def test_bad_requests_say_what_to_change(client: TestClient, asked: dict, change: dict, words: str) -> None:
    merged = {**asked, **change, "cow": {**asked["cow"], **change.get("cow", {})}}
    answer = client.post("/v1/generate", json=merged)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]
