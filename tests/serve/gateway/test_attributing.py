"""POST /v1/attribute, uploads, and what a stranger may send."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from PIL import Image

from forebear.attribution import Attributor
from forebear.images import to_png
from forebear.run import Run


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 16, 3), np.uint8))


@pytest.fixture
def sample(client: TestClient) -> dict[str, Any]:
    return client.get("/v1/samples", params={"limit": 5}).json()["samples"][3]


def test_a_training_image_finds_itself(client: TestClient, sample: dict, served_run: Run) -> None:
    options = {"estimators": ["retrac-matched", "retrac"], "top_k": 3}
    answer = client.post("/v1/attribute", json={"sample": sample["id"], "options": options}).json()
    assert answer["attributions"][0]["proponents"][0]["sample_id"] == sample["id"]
    attributor = Attributor.open(served_run.folder)
    own = attributor.attribute(attributor.training_set.picture(sample["row"]), "", sample["label"], "retrac", 3)
    served = [one["score"] for one in answer["attributions"][1]["proponents"]]
    assert served == pytest.approx([one.score for one in own.proponents])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_upload_is_kept_and_traced_by_its_id(client: TestClient, picture: Image.Image, kind: str) -> None:
    data = encoded(picture, kind)
    kept = client.post("/v1/pictures", content=data)
    assert kept.status_code == 201
    info = kept.json()
    assert (info["origin"], info["width"], info["height"]) == ("uploaded", 16, 20)
    assert client.post("/v1/pictures", content=data).json()["id"] == info["id"]
    image = client.get(f"/v1/pictures/{info['id']}/image").content
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(image))), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )
    by_id = client.post("/v1/attribute", json={"picture": info["id"], "label": 2}).json()
    sent = client.post("/v1/attribute", json={"image": base64.b64encode(data).decode(), "label": 2}).json()
    assert by_id["attributions"][0]["proponents"] == sent["attributions"][0]["proponents"]


def test_what_is_hidden_in_a_file_is_not_kept(client: TestClient, picture: Image.Image) -> None:
    hidden = encoded(picture) + b"<script>alert(1)</script>"
    kept = client.post("/v1/pictures", content=hidden).json()
    assert b"script" not in client.get(f"/v1/pictures/{kept['id']}/image").content


def test_regions_and_timesteps_are_asked_about(client: TestClient, sample: dict) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    boxed, masked, late = (
        client.post(
            "/v1/attribute", json={"sample": sample["id"], "options": {"estimators": ["retrac"], **options}}
        ).json()
        for options in (
            {"region": {"box": [0, 0, 8, 4]}},
            {"region": {"mask": base64.b64encode(to_png(Image.fromarray(mask))).decode()}},
            {"timesteps": [500, 999]},
        )
    )
    assert boxed["attributions"][0]["proponents"] == masked["attributions"][0]["proponents"]
    assert boxed["attributions"][0]["query"]["region"]["share"] == pytest.approx(0.5)
    assert boxed["attributions"][0]["memorisation"] is None
    assert late["attributions"][0]["query"]["timesteps"] == [750]


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({}, 422, "exactly one of picture, sample and image"),
        ({"picture": "0" * 32, "sample": "x"}, 422, "exactly one of"),
        ({"picture": "../../etc/passwd"}, 422, "body.picture"),
        ({"picture": "0" * 32}, 404, "make it again"),
        ({"sample": "nobody"}, 404, "no training image nobody"),
        ({"image": "no base64!"}, 415, "send one"),
        ({"image": base64.b64encode(b"GIF89a").decode()}, 415, "PNG, JPEG, WebP"),
        ({"image": base64.b64encode(b"\x89PNG\r\n\x1a\n broken").decode()}, 422, "cannot be used"),
    ],
)
def test_bad_requests_say_what_to_change(client: TestClient, asked: dict, status: int, words: str) -> None:
    answer = client.post("/v1/attribute", json=asked)
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text


def test_bad_regions_are_refused(client: TestClient, sample: dict) -> None:
    for region, words in (
        ({"box": [0, 0, 900, 4]}, "inside"),
        ({"mask": base64.b64encode(to_png(Image.new("L", (5, 3)))).decode()}, "the mask is 5 x 3 pixels"),
        ({"mask": base64.b64encode(to_png(Image.new("L", (8, 8)))).decode()}, "empty"),
        ({"mask": base64.b64encode(b"white").decode()}, "not a picture"),
    ):
        answer = client.post("/v1/attribute", json={"sample": sample["id"], "options": {"region": region}})
        assert answer.status_code in {415, 422}
        assert words in answer.json()["detail"], answer.text


def test_a_small_file_that_claims_many_pixels_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/pictures", content=encoded(Image.new("1", (2000, 2000))))
    assert answer.status_code == 422
    assert "4000000" in answer.json()["detail"].replace(",", "") or "2000 x 2000" in answer.json()["detail"]
    assert client.post("/v1/pictures", content=b"\x89PNG\r\n\x1a\n" + b"x" * 100_000).status_code == 413


@example_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_end_in_a_server_error(
    client: TestClient, picture: Image.Image, data: st.DataObject
) -> None:
    whole = encoded(picture, data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"])))
    damaged = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    answer = client.post("/v1/pictures", content=bytes(damaged))
    assert answer.status_code in {201, 415, 422}, answer.text
    assert "/" not in answer.json().get("detail", "")
