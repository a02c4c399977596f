"""Training images, groups, generators, estimators, index, health, metrics."""

import io
import time

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from forebear.attribution import Attributor
from forebear.run import Run
from forebear.store import remove_samples, restore_samples
from forebear_serve.gateway import informing
from forebear_serve.problems import unavailable


def test_pages_hold_every_image_once_in_order(client: TestClient) -> None:
    rows, after = [], -1
    while after is not None:
        page = client.get("/v1/samples", params={"limit": 7, "after": after}).json()
        rows += [one["row"] for one in page["samples"]]
        assert page["total"] == 24
        after = page["next"]
    assert rows == list(range(24))


def test_images_are_found_by_text_and_group(client: TestClient) -> None:
    first = client.get("/v1/samples", params={"limit": 1}).json()["samples"][0]
    found = client.get("/v1/samples", params={"text": first["id"][:10].upper()}).json()
    assert [one["id"] for one in found["samples"]] == [first["id"]]
    assert client.get("/v1/samples", params={"text": "no such words"}).json() == {
        "samples": [],
        "total": 0,
        "next": None,
    }
    for name, value in first["groups"].items():
        page = client.get("/v1/samples", params={"group": name, "value": value, "limit": 500}).json()
        assert first["id"] in [one["id"] for one in page["samples"]]
        assert {one["groups"][name] for one in page["samples"]} == {value}
    assert client.get("/v1/samples", params={"group": "artist"}).status_code == 422
    assert client.get("/v1/samples", params={"value": "3"}).status_code == 422


def test_groups_count_their_images(client: TestClient) -> None:
    for group in client.get("/v1/groups").json():
        for value in group["values"]:
            page = client.get("/v1/samples", params={"group": group["name"], "value": value["value"]}).json()
            assert page["total"] == value["samples"]


def test_a_thumbnail_is_the_training_image(client: TestClient, served_run: Run) -> None:
    attributor = Attributor.open(served_run.folder)
    sample = client.get("/v1/samples", params={"limit": 1}).json()["samples"][0]
    answer = client.get(f"/v1/samples/{sample['id']}/image", params={"size": 100})
    assert answer.headers["content-type"] == "image/png"
    shown = Image.open(io.BytesIO(answer.content))
    own = attributor.training_set.picture(0, 128)
    assert shown.size == own.size or max(shown.size) == 128
    if shown.size == own.size:
        assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(own))
    assert client.get(f"/v1/samples/{sample['id']}").json() == sample
    assert client.get("/v1/samples/nobody/image").status_code == 404


def test_removed_images_are_gone_from_lists_pictures_and_answers(client: TestClient, served_run: Run) -> None:
    sample = client.get("/v1/samples", params={"limit": 4}).json()["samples"][3]
    asked = {
        "sample": client.get("/v1/samples", params={"limit": 1}).json()["samples"][0]["id"],
        "options": {"top_k": 24},
    }
    remove_samples(served_run.store_folder, [sample["id"]], "a test")
    try:
        assert client.get("/v1/samples").json()["total"] == 23
        assert client.get(f"/v1/samples/{sample['id']}/image").status_code == 404
        answer = client.post("/v1/attribute", json=asked).json()["attributions"][0]
        assert sample["id"] not in {one["sample_id"] for one in answer["proponents"]}
        assert client.get("/v1/index").json()["removed"] == 1
    finally:
        restore_samples(served_run.store_folder, [sample["id"]])
    assert client.get("/v1/samples").json()["total"] == 24


def test_generators_estimators_and_index_describe_themselves(client: TestClient) -> None:
    (generator,) = client.get("/v1/generators").json()
    assert (generator["name"], generator["conditioning"], generator["image_size"]) == ("fp32", "class", 8)
    estimators = client.get("/v1/estimators").json()
    assert [one["name"] for one in estimators if one["default"]] == ["retrac-ridge"]
    index = client.get("/v1/index").json()
    assert (index["samples"], index["removed"]) == (24, 0)
    assert set(index["indexes"]) == {one["name"] for one in estimators}
    assert "positive score" in index["sign"]


def test_health_names_every_part_and_needs_no_token(client: TestClient, client_with) -> None:
    answer = client_with("").get("/v1/health")
    assert answer.status_code == 200
    assert answer.json()["parts"] == {
        "generator fp32": "ok",
        "attributor": "ok",
        "catalogue": "ok",
        "reviews": "ok",
        "audits": "ok",
        "jobs": "ok",
    }


def test_metrics_count_requests_by_pattern(client: TestClient) -> None:
    client.get("/v1/samples/nobody")
    text = client.get("/v1/metrics").text
    assert 'forebear_requests_total{route="/samples/{sample_id}",status="404"}' in text
    assert "nobody" not in text


def test_metrics_are_told_while_nobody_knows_the_replicas(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Serve's controller knows them: it may be dead, or too slow to wait for."""
    core = client.app.state.core

    def away() -> dict[str, dict[str, int]]:
        raise unavailable("the server's own watch is being replaced; ask again")

    def slow() -> dict[str, dict[str, int]]:
        time.sleep(20 * informing.CHECK_SECONDS)
        return {}

    monkeypatch.setattr(informing, "CHECK_SECONDS", 0.05)
    for replicas, told in ((lambda: {"gateway": {"running": 1}}, True), (away, False), (slow, False)):
        monkeypatch.setattr(core, "replicas", replicas)
        answer = client.get("/v1/metrics")
        assert answer.status_code == 200
        assert ('forebear_replicas{part="gateway",state="running"} 1.0' in answer.text) == told


def test_openapi_describes_every_error_and_example(client: TestClient) -> None:
    described = client.get("/v1/openapi.json").json()
    assert "ProblemDetails" in described["components"]["schemas"]
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            assert route["summary"], (method, path)
            assert route["description"], (method, path)
            refusals = {"/v1/health": set(), "/v1/token": {"401", "429"}}.get(path, {"401", "403", "429"})
            assert refusals <= set(route["responses"]), (method, path)
