"""Several processes, kills and interrupts give the same bytes as one uninterrupted process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.llava_rad.benchmark.conftest import METRICS, benchmark, contents, start
from tests.llava_rad.conftest import finished


@pytest.mark.nightly
def test_processes_of_torchrun_give_the_same_bytes(pairs: Path, tiny: Path, tmp_path: Path) -> None:
    how = ("--model", tiny, "--protocol", "paper")
    benchmark(pairs, tmp_path / "one", *how)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
        sys.executable, "-c", "from llava_rad.cli import main; main()", "benchmark", "--dataset", "csv", "--data",
        pairs, "-o", tmp_path / "many", *METRICS, *how,
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--protocol", "fast", "--batch-size", "5"), ("--limit", "2")])
def test_three_processes_give_the_same_bytes(options: tuple[str, ...], pairs: Path, tiny: Path, tmp_path: Path) -> None:
    """Of 2 images and 3 processes the last share is empty."""
    benchmark(pairs, tmp_path / "one", "--model", tiny, *options)
    benchmark(pairs, tmp_path / "three", "--model", tiny, *options, processes=3)
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
            process.kill()
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
