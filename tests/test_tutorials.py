"""Run the blocks of the tutorials and of the guide to own data in order."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.make_phantom import make_dataset
from tests.source_tree import ROOT

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(name: str, until: str | None = None) -> list[tuple[str, str]]:
    """Language and text of a document's blocks, those before the heading ``until``."""
    text = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    return BLOCK.findall(text if until is None else text.split(f"\n## {until}\n")[0])


def follow(folder: Path, language: str, text: str) -> str:
    """Run one block in ``folder``, line by line if it is shell; what it printed. Some inputs may be refused (3)."""
    binaries = folder / "bin"
    if not binaries.exists():
        binaries.mkdir()
        (folder / "scripts").symlink_to(ROOT / "scripts")
        for name, rest in (("python", ""), ("llava-rad", '-c "from llava_rad.cli import main; main()" ')):
            (binaries / name).write_text(f'#!/bin/sh\nexec {sys.executable} {rest}"$@"\n')
            (binaries / name).chmod(0o755)
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    lines = (
        [[sys.executable, "-c", text]] if language == "python" else [["bash", "-c", line] for line in text.splitlines()]
    )
    printed = ""
    for words in lines:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode in (0, 3), f"{words[-1]}\n{done.stdout}\n{done.stderr}"
        printed += done.stdout
    return printed


@pytest.mark.nightly
def test_engineer(tmp_path: Path) -> None:
    printed = [follow(tmp_path, *block) for block in blocks("tutorial-engineer")]
    assert "FINDINGS:" in printed[0]
    lines = (tmp_path / "reports.jsonl").read_text().splitlines()
    assert 3 <= len(lines) < len(list((tmp_path / "phantoms-engineer").rglob("*.dcm")))  # laterals were refused
    assert any("no report" in text for text in printed)


@pytest.mark.nightly
def test_researcher(tmp_path: Path) -> None:
    for block in blocks("tutorial-researcher", until="On real data"):
        follow(tmp_path, *block)
    assert (tmp_path / "runs" / "model" / "model" / "config.json").is_file()
    assert "own" in (tmp_path / "probe" / "table.md").read_text()
    assert (tmp_path / "results" / "index.html").is_file()


def mine(folder: Path) -> None:
    """The guide's folder, of drawn radiographs: frontal and lateral, patients in the table, a test split."""
    make_dataset(folder / "drawn", ["iu-xray"], studies=30, size=160, seed=3)
    lines = (folder / "drawn" / "truth" / "iu-xray.jsonl").read_text().splitlines()
    (folder / "mine" / "images").mkdir(parents=True)
    labels, reports = ["image,patient_id,view,split"], ["image,subject,view,split,findings"]
    for number, truth in enumerate(map(json.loads, lines), 1):
        image = f"images/{number}.png"
        (folder / "drawn" / truth["image"]).rename(folder / "mine" / image)
        patient, view = truth["patient"]["key"], truth["view"]
        split = "test" if int(patient.split("/")[-1]) % 4 == 0 else "train"
        labels.append(f"{image},{patient},{view},{split}")
        reports.append(f'{image},{patient},{view},{split},"{truth["report"]}"')
    (folder / "mine" / "labels.csv").write_text("\n".join(labels) + "\n")
    (folder / "mine" / "reports.csv").write_text("\n".join(reports) + "\n")


@pytest.mark.nightly
def test_own_data(tmp_path: Path) -> None:
    mine(tmp_path)
    printed = [follow(tmp_path, *block) for block in blocks("how-to-own-data")]
    assert "view" in printed[0]
    assert (tmp_path / "runs" / "model" / "model" / "config.json").is_file()
    assert (tmp_path / "results" / "index.html").is_file()


def test_every_tutorial_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for name in ("engineer", "researcher", "radiologist"):
        assert f"docs/tutorial-{name}.md" in text
