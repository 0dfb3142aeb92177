"""Phantom data in every layout, drawn once for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.make_phantom import make_dataset
from scripts.phantom.layouts import LAYOUTS

STUDIES = 8


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "out"
    make_dataset(out, list(LAYOUTS), studies=STUDIES, size=96, seed=7)
    return out
