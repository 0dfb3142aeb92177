"""On a terminal the text appears as it is written; into a pipe goes the same text, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.llava_rad.conftest import Run, spawn

pytestmark = pytest.mark.slow

pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")
COMMAND = [sys.executable, "-c", "from llava_rad.cli import main; main()"]


def on_terminal(
    *arguments: str | Path, out: bool = False, err: bool = False, stdin: bool = False
) -> tuple[int, list[bytes]]:
    """Run with some of the streams on a pseudo-terminal.

    Returns:
        The exit code, and what came through the terminal, piece by piece.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs if stdin else subprocess.DEVNULL,
        stdout=theirs if out else subprocess.DEVNULL,
        stderr=theirs if err else subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"},
    )
    os.close(theirs)
    pieces = []
    try:
        while piece := os.read(ours, 4096):
            pieces.append(piece)
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    return process.wait(), pieces


def test_one_image_is_streamed_on_a_terminal(run: Run, tiny: Path, chest: list[Path]) -> None:
    code, pieces = on_terminal("generate", chest[0], "--model", tiny, out=True)
    assert code == 0
    assert len(pieces) > 3
    piped = run("generate", chest[0], "--model", tiny)
    assert b"".join(pieces).decode().replace("\r\n", "\n") == piped.out


def test_json_and_several_images_are_not_streamed(tiny: Path, chest: list[Path]) -> None:
    _, pieces = on_terminal("generate", chest[0], "--model", tiny, "--format", "json", out=True)
    assert b"".join(pieces).startswith(b"{")
    _, pieces = on_terminal("generate", *chest[:2], "--model", tiny, out=True)
    assert len(pieces) <= 4


def test_progress_is_shown_on_a_terminal_only_and_never_on_standard_output(
    run: Run, tiny: Path, chest: list[Path]
) -> None:
    arguments = ["generate", *chest, "--model", tiny, "--format", "jsonl"]
    _, pieces = on_terminal(*arguments, err=True)
    assert b"6/6" in b"".join(pieces)
    assert on_terminal(*arguments, "--quiet", err=True)[1] == []
    assert run(*arguments).err == "llava-rad: 6 of 6 reports written\n"


def test_standard_input_that_is_a_terminal_is_a_usage_error(tiny: Path) -> None:
    code, _ = on_terminal("generate", "-", "--model", tiny, stdin=True)
    assert code == 2


def test_a_reader_that_goes_away_ends_the_run_quietly(tiny: Path, chest: list[Path]) -> None:
    process = spawn("generate", *chest * 5, "--model", tiny, "--format", "jsonl", "--batch-size", "1")
    assert process.stdout is not None
    assert process.stdout.read(10) == b'{"schema":'
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read().decode()
    assert process.wait() == 1
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
