"""One real server without accounts for all tests that need no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.soak.serving import Served, served


@pytest.fixture(scope="package")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Without accounts, and without the example."""
    with served(tmp_path_factory.mktemp("local"), "--no-example") as running:
        yield running
