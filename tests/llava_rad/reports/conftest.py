"""Phantom data sets in the public layouts, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.make_phantom import make_dataset


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mimic-cxr/, mimic-cxr-jpg/, iu-xray/ and open-i/ with sixty studies each; not to be changed."""
    out = tmp_path_factory.mktemp("phantoms") / "out"
    make_dataset(out, ["mimic-cxr", "iu-xray"], studies=60, size=64, seed=0)
    return out
