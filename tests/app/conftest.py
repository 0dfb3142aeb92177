"""A store, a tiny model, the command line, and one server without accounts that tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store import Store
from scripts.soak.serving import Served, served
from tests.llava_rad.conftest import replica, run, tiny

__all__ = ["replica", "run", "tiny"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "reviews.sqlite")


@pytest.fixture(scope="package")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without accounts and without the example."""
    with served(tmp_path_factory.mktemp("local"), "--no-example") as running:
        yield running
