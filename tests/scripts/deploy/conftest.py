"""The image of scripts/deploy, built once, and folders as volumes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.deploy.container import Image, build, refusal
from tests.scripts.deploy.dockerfile import FOLDER, compose

VALUES = {"ORTHANC_PASSWORD": "archive password", "REVIEW_HOST": "review.example.org"}


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image, in whose network every service is this machine."""
    if reason := refusal():
        pytest.skip(reason)
    built = build(tmp_path_factory.mktemp("image"), {})
    (built.root / "etc" / "hosts").write_text("127.0.0.1 localhost " + " ".join(compose(VALUES)["services"]) + "\n")
    return built


@pytest.fixture(scope="session")
def services() -> dict[str, Any]:
    """Services of the compose file, by name."""
    found: dict[str, Any] = compose(VALUES)["services"]
    return found


@pytest.fixture
def volumes(tmp_path: Path, image: Image) -> Callable[[str], Path]:
    """Return the folder of a volume: empty, with the owner and mode that the image gives its folders."""
    uid, gid = map(int, image.user.split(":"))

    def volume(name: str) -> Path:
        if name.startswith("."):
            path = FOLDER / name
            if path.exists():
                return path
        path = tmp_path / "volumes" / name.lstrip("./")
        if not path.exists():
            path.mkdir(parents=True, mode=0o700)
            os.chown(path, uid, gid)
        return path

    return volume
