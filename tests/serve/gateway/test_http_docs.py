"""docs/http.md lists every endpoint, with the scope that it really asks for."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from forebear_serve.audit_schemas import Nearness, OutlierScore
from forebear_serve.job_schemas import EvaluateOptions, JobState
from forebear_serve.review_schemas import ExportFormat

DOCS = Path(__file__).parents[3] / "docs" / "http.md"
ROW = re.compile(r"^\| ([A-Z]+) \| `(/v1/[^`]+)` \| (\w+) \| .+ \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def text() -> str:
    return DOCS.read_text(encoding="utf-8")


def test_every_endpoint_is_listed_once(text: str, api: FastAPI) -> None:
    listed = [(method, path) for method, path, _ in ROW.findall(text)]
    offered = [(method.upper(), path) for path, methods in api.openapi()["paths"].items() for method in methods]
    assert sorted(listed) == sorted(offered)


def test_endpoints_ask_for_the_scope_that_is_listed(
    text: str, client_with: Callable[[str], TestClient], secrets: dict[str, str]
) -> None:
    for method, path, scope in ROW.findall(text):
        place = path.replace("{", "").replace("}", "")
        for given in ("read", "generate", "review"):
            status = client_with(secrets[given]).request(method, place).status_code
            allowed = scope in (given, "any", "none")
            assert (status != 403) == allowed, (method, path, given, status)
        assert client_with(secrets["admin"]).request(method, place).status_code not in {401, 403}
        assert (client_with("").request(method, place).status_code == 401) == (scope != "none")


def test_every_choice_is_named(text: str) -> None:
    evaluations = EvaluateOptions.model_json_schema()["properties"]["evaluation"]["enum"]
    for one in (*OutlierScore, *Nearness, *JobState, *ExportFormat, *evaluations):
        assert f"`{one}`" in text, one
