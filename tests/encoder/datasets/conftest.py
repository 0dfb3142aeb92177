"""Tests of this folder share decoding processes, and caches of small shards."""

from __future__ import annotations

import pytest

from encoder.datasets import cache_building
from tests.encoder.datasets.small_caches import SIZE
from tests.shared_readers import _idle_readers, shared_readers

__all__ = ["_idle_readers", "shared_readers"]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two images."""
    monkeypatch.setattr(cache_building, "SHARD_BYTES", 2 * SIZE * SIZE * 5 // 4 + 8)
