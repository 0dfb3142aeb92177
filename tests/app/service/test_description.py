"""Requests that Schemathesis draws from the OpenAPI description: no server error, and answers are as described."""

from __future__ import annotations

from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.specs.openapi import checks

from tests.app.service.conftest import Service

pytestmark = pytest.mark.referee

CHECKS: list[CheckFunction] = [
    not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
    checks.response_headers_conformance, checks.response_schema_conformance,
]  # fmt: skip
ROUTES = {
    "GET /health/live": 5, "GET /health/ready": 5, "GET /metrics": 5, "POST /v1/reports": 120, "POST /v1/batches": 60,
    "GET /v1/batches/{batch}": 30, "DELETE /v1/batches/{batch}": 30, "POST /v1/admin/reload": 5,
}  # fmt: skip
"""Route -> requests that are drawn."""


@pytest.fixture(scope="module")
def description(service: Service, chest: list[Path]) -> schemathesis.BaseSchema:
    files = st.sampled_from([path.read_bytes() for path in chest])
    schemathesis.openapi.format("binary", files | files.map(lambda data: data[:-100]) | st.binary(max_size=200))
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{service.client.port}/openapi.json")


def test_every_route_is_called(description: schemathesis.BaseSchema) -> None:
    assert {operation.ok().label for operation in description.get_all_operations()} == set(ROUTES)


@pytest.mark.parametrize("route", list(ROUTES))
def test_answers_are_as_described(description: schemathesis.BaseSchema, route: str) -> None:
    (operation,) = [found.ok() for found in description.get_all_operations() if found.ok().label == route]
    seen = set[int]()

    @settings(
        max_examples=ROUTES[route], deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def check(case: schemathesis.Case) -> None:
        seen.add(case.call_and_validate(checks=CHECKS).status_code)

    check()
    if route == "POST /v1/reports":
        assert {200, 422} <= seen
