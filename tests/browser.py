"""Find the browser of the browser tests."""

from __future__ import annotations

import shutil

import pytest


def chromium() -> str:
    """Return Debian's chromium; its build without a window if there is one, which takes a quarter less time."""
    found = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium-headless-shell)")
    return found
