"""Replicas of the published models and their conversions, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_rad.conversion.published import convert
from tests.llava_rad.conversion import replicas


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of published files by kind; tests that change one copy it first."""
    folder = tmp_path_factory.mktemp("published")
    return {
        "maira-2": replicas.maira_2(folder / "maira-2"),
        "llava-1.5": replicas.llava(folder / "llava")[0],
        "llava-rad": replicas.llava_rad(folder / "llava-rad"),
    }


@pytest.fixture(scope="session")
def maira(published: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder converted from MAIRA-2's replica."""
    folder = tmp_path_factory.mktemp("maira") / "model"
    convert("maira-2", published["maira-2"], folder)
    return folder


@pytest.fixture(scope="session")
def rad(published: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder converted from LLaVA-Rad's replica."""
    folder = tmp_path_factory.mktemp("rad") / "model"
    convert("llava-rad", published["llava-rad"], folder)
    return folder
