"""Run every command whose message without a hub is quoted in docs/weights.md."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.encoder.dicom_files import chest
from tests.forked import Command
from tests.llava_rad.conftest import finished
from tests.source_tree import ROOT

PRELOAD = ("llava_rad.generation.engine", "transformers", "huggingface_hub")
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


@pytest.fixture(scope="module", autouse=True)
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The hub is allowed and cannot be reached, and its cache is empty."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("HF_", "TRANSFORMERS_")):
                patch.delenv(name)
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("words", "quoted", "code"), said_by(), ids=lambda value: str(value)[:60])
def test_the_quoted_line_is_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], quoted: list[str], code: int
) -> None:
    (tmp_path / "IMAGES").mkdir()
    (tmp_path / "IMAGES" / "1.dcm").write_bytes(chest())
    (tmp_path / "P.jsonl").write_text('{"id": "1", "prediction": "A."}\n')
    (tmp_path / "R.jsonl").write_text('{"id": "1", "reference": "A."}\n')
    monkeypatch.chdir(tmp_path)
    done = finished(Command([f"{word}.jsonl" if word in ("P", "R") else word for word in words], 1, PRELOAD))
    assert done.code == code, done.err
    assert all(piece in done.out + done.err for piece in quoted), done.out + done.err
