"""A tiny checkpoint, its trainable module, and a table of small pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.llava_rad.training import small_pairs


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pairs to train on and four to watch."""
    return small_pairs.make(tmp_path_factory.mktemp("pairs"))
