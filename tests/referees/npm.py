"""Referees from npm at the versions of their package-lock.json, installed once for all tests of a checkout."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.source_tree import ROOT

_FILES = Path(__file__).parent


def installed(name: str) -> Path:
    """Return a folder with the scripts and the packages of ``tests/referees/NAME``; skip the test if there is none.

    It lies below ``build/`` and is named after the lock file: packages are downloaded again when a version changes.
    """
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed (Debian: apt-get install npm)")
    digest = hashlib.sha256((_FILES / name / "package-lock.json").read_bytes()).hexdigest()[:12]
    folder = ROOT / "build" / "referees" / f"{name}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        shutil.copytree(_FILES / name, folder, dirs_exist_ok=True)
        if not (folder / "complete").exists():
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
            if done.returncode != 0:
                pytest.skip(f"npm cannot install {name}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
            (folder / "complete").touch()
    return folder


def run(folder: Path, script: str, *arguments: Path | str) -> Any:
    """Run a script of the folder with node and return the JSON of its last line; packages may print others."""
    command = ["node", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
