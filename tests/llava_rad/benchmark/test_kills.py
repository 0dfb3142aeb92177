"""Several processes, kills and interrupts give the same bytes as one uninterrupted process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.llava_rad.benchmark.conftest import benchmark, contents, start
from tests.llava_rad.conftest import finished
from tests.llava_rad.training.runs import _children


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "protocol"), [(2, "paper"), (3, "fast")])
def test_several_processes_give_the_same_bytes(
    processes: int, protocol: str, pairs: Path, tiny: Path, tmp_path: Path
) -> None:
    how = ("--model", tiny, "--protocol", protocol, *(("--batch-size", "5") if protocol == "fast" else ()))
    benchmark(pairs, tmp_path / "one", *how)
    benchmark(pairs, tmp_path / "many", *how, processes=processes)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.slow
def test_more_processes_than_images(pairs: Path, tiny: Path, tmp_path: Path) -> None:
    """Of 2 images and 3 processes the last share is empty."""
    how = ("--model", tiny, "--limit", "2")
    benchmark(pairs, tmp_path / "one", *how)
    benchmark(pairs, tmp_path / "three", *how, processes=3)
    assert contents(tmp_path / "three") == contents(tmp_path / "one")


@pytest.mark.parametrize(
    ("processes", "kills", "protocol"),
    [
        pytest.param(1, 3, "fast", marks=pytest.mark.slow),
        pytest.param(1, 10, "paper", marks=pytest.mark.nightly),
        pytest.param(2, 3, "paper", marks=pytest.mark.nightly),
    ],
)
def test_killed_at_random_points_and_continued(
    processes: int, kills: int, protocol: str, pairs: Path, tiny: Path, tmp_path: Path
) -> None:
    how = ("--model", tiny, "--protocol", protocol, *(("--batch-size", "3") if protocol == "fast" else ()))
    benchmark(pairs, tmp_path / "whole", *how)
    total = _lines(tmp_path / "whole")
    chance = random.Random(kills * processes)
    output, killed, seen = tmp_path / "killed", 0, [0]
    for _ in range(kills):
        process = start(pairs, output, *how, processes=processes)
        more = min(seen[-1] + chance.choice((0, 1, 1, 2, 3)), total)
        deadline = time.monotonic() + 120
        while process.poll() is None and _lines(output) < more:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)
        if process.poll() is None:
            _kill(process)
            killed += 1
        process.communicate()
        seen.append(_lines(output))
    assert killed >= kills - 2, "the runs must be stopped, or this tests nothing"
    assert len(set(seen)) > 2 and seen == sorted(seen), "predictions are kept from run to run"
    benchmark(pairs, output, *how, processes=processes)
    assert contents(output) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_interrupted(pairs: Path, tiny: Path, tmp_path: Path) -> None:
    process = start(pairs, tmp_path / "r", "--model", tiny)
    while process.poll() is None and _lines(tmp_path / "r") < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    ran = finished(process)
    assert (ran.code, ran.out) == (130, "") and "the same command continues the run" in ran.err
    benchmark(pairs, tmp_path / "r", "--model", tiny)


def _lines(output: Path) -> int:
    """Count the predictions in the merged file and in shards; during the merge they are in both."""
    found: set[bytes] = set()
    for file in (*output.glob("predictions/shards/*/*.jsonl"), *output.glob("predictions/tiny.jsonl")):
        try:
            found.update(file.read_bytes().split(b"\n")[:-1])
        except FileNotFoundError:
            continue
    return len(found)


def _kill(process: subprocess.Popen[bytes]) -> None:
    for number in (*_children(process.pid), process.pid):
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
