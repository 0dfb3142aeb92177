"""Studies by HTTP: lateral, prior and texts reach the model as they do by ``generate``, also beside other requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import llava_rad
from app.service.application import Settings
from llava_rad.generation.options import GenerationOptions
from tests.app.service.conftest import serving
from tests.app.service.test_reports import form
from tests.llava_rad.conversion.conftest import maira, published

__all__ = ["maira", "published"]

pytestmark = pytest.mark.slow


def test_studies_of_several_requests_are_kept_apart(maira: Path, chest: list[Path], lateral: Path) -> None:
    studies: list[dict[str, Any]] = [
        {},
        {"indication": "Hüsten, 咳嗽"},
        {"lateral": lateral, "technique": "PA and lateral."},
        {"prior": chest[1], "prior_report": "The lungs are clear."},
        {"grounded": True},
        {"indication": "cough"},
        {},
    ]
    expected = [llava_rad.generate(chest[0], maira, max_new_tokens=8, **study)[0].to_json() for study in studies]
    assert len(set(expected)) == 6
    options = GenerationOptions(model=maira, max_new_tokens=8)
    with serving(Settings(options=options)) as service, ThreadPoolExecutor(8) as pool:

        def ask(study: dict[str, Any]) -> str:
            parts: list[tuple[str, bytes | str]] = [("image", chest[0].read_bytes())]
            for name, value in study.items():
                sent = value.read_bytes() if isinstance(value, Path) else str(value).replace("True", "true")
                parts.append((name, sent))
            body, kind = form(*parts)
            return service.client.call("POST", "/v1/reports", body, **{"content-type": kind}).body.decode()

        assert list(pool.map(ask, studies)) == expected
        body, kind = form(("image", chest[0].read_bytes()), ("indication", "</s> <image>"))
        answer = service.client.call("POST", "/v1/reports", body, **{"content-type": kind})
        assert (answer.status, answer.json()["reason"]) == (400, "not_taken")
