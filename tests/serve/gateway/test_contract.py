"""The API holds what its OpenAPI promises, whatever is sent: schemathesis over every operation."""

from collections.abc import Callable

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as example_settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]
FEW = example_settings(max_examples=6, suppress_health_check=QUIET, phases=[Phase.explicit, Phase.generate])
MANY = example_settings(max_examples=150, suppress_health_check=QUIET)

Check = Callable[[example_settings], list[str]]


@pytest.fixture
def checked(api: FastAPI, secrets: dict[str, str]) -> Check:
    """Sends what hypothesis makes up to every operation; returns the operations."""
    schema = schemathesis.openapi.from_asgi("/v1/openapi.json", api)
    headers = {"Authorization": f"Bearer {secrets['admin']}"}

    def check(chosen: example_settings) -> list[str]:
        names = []
        for found in schema.get_all_operations():
            operation = found.ok()

            @chosen
            @given(case=operation.as_strategy())
            def hold(case: schemathesis.Case) -> None:
                case.call_and_validate(headers=headers, checks=CHECKS)

            hold()
            names.append(f"{operation.method} {operation.path}")
        return names

    return check


def test_a_few_requests_of_every_operation(checked: Check, api: FastAPI) -> None:
    assert len(checked(FEW)) == sum(map(len, api.openapi()["paths"].values()))


@pytest.mark.slow
def test_many_requests_of_every_operation(checked: Check) -> None:
    checked(MANY)
