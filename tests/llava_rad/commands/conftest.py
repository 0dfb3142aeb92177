"""Inputs of all commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.llava_rad import small_probes
from tests.llava_rad.commands.calls import World


@pytest.fixture(scope="session")
def world(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Small inputs with which every command succeeds, in one folder."""
    return World.made(tmp_path_factory.mktemp("world"), tiny)


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark squares in bright noise, with their masks; 12 training, 4 validation, 6 test images."""
    return small_probes.masked(tmp_path_factory.mktemp("masked"))
