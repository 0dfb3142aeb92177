"""Programs of Python packages that judge this project."""

from __future__ import annotations

import shutil
import sysconfig

import pytest


def program(name: str) -> str:
    """Return the path of a program; skip the test if its package is not installed."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (PyPI: {name})")
    return found
