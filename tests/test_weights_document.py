"""Run every command whose message without a hub is quoted in docs/weights.md."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.encoder.dicom_files import chest
from tests.source_tree import ROOT

TEXT = (ROOT / "docs" / "weights.md").read_text("utf-8")
ROWS = re.findall(r"^\| (.+?) \| (.+?) \| (\d) \|$", TEXT.split("## Without the hub")[1], re.MULTILINE)


def said_by() -> list[tuple[list[str], list[str], int]]:
    """Arguments, the pieces of text that are quoted, exit code; "the same with" adds to the row before."""
    found: list[tuple[list[str], list[str], int]] = []
    for command, says, code in ROWS:
        (first, *_) = re.findall(r"`(.+?)`", command)
        words = [*found[-1][0], first] if command.startswith("the same with") else shlex.split(first)
        quoted = [piece.removeprefix("... ") for piece in re.findall(r"`(.+?)`", says)]
        found.append((words, quoted, int(code)))
    return found


def test_every_row_is_read() -> None:
    assert len(said_by()) == TEXT.split("## Without the hub")[1].count("\n| ") - 1 >= 10


@pytest.mark.slow
@pytest.mark.parametrize(("words", "quoted", "code"), said_by(), ids=lambda value: str(value)[:60])
def test_the_quoted_line_is_the_real_one(tmp_path: Path, words: list[str], quoted: list[str], code: int) -> None:
    (tmp_path / "IMAGES").mkdir()
    (tmp_path / "IMAGES" / "1.dcm").write_bytes(chest())
    (tmp_path / "P.jsonl").write_text('{"id": "1", "prediction": "A."}\n')
    (tmp_path / "R.jsonl").write_text('{"id": "1", "reference": "A."}\n')
    words = [f"{word}.jsonl" if word in ("P", "R") else word for word in words]
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))} | nowhere
    script = [sys.executable, "-c", "from llava_rad.cli import main; main()"]
    done = subprocess.run(
        [*script, *words],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert all(piece in done.stdout + done.stderr for piece in quoted), done.stdout + done.stderr
