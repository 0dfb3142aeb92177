"""Features survive SIGKILL: no image is computed twice beyond what was being computed, and results are the same."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.backbones.dinov2 import RadDino
from encoder.datasets.manifest import Row, write_manifest
from tests.encoder.dinov2_models import dinov2
from tests.llava_rad.conftest import Run, finished

IMAGES, KILLS, BATCH, SIZE = 150, 2, 16, 28
NAMES_IMAGES = """
import hashlib, pathlib, sys, time
import numpy as np
import encoder.probing.vectors as vectors
from llava_rad.cli import main
from llava_rad.probes.embedding import Embedding

def named(function, position):
    def encode(*arguments):
        with open(sys.argv[1], "a") as file:
            file.write("".join(hashlib.sha256(one.tobytes()).hexdigest() + "\\n" for one in arguments[position]))
        found = function(*arguments)
        time.sleep(float(sys.argv[2]))
        return found
    return encode

vectors.encode, Embedding._encode = named(vectors.encode, 1), named(Embedding._encode, 2)
main(sys.argv[3:])
"""
"""The command line, but every image that is encoded is written to a file."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    RadDino(dinov2(size=SIZE), f"rad-dino-{SIZE}").save_pretrained(folder / "encoder")
    generator, rows = np.random.default_rng(0), []
    for number in range(IMAGES):
        pixels = generator.integers(0, 200, (64, 64)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        attributes = {"sex": "MF"[number % 2]}
        rows.append(Row(folder / f"{number}.png", "d", f"p{number}", image=f"i{number}", attributes=attributes))
    write_manifest(rows, folder / "m.csv")
    return folder


def start(log: Path, pause: float, *arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", NAMES_IMAGES, str(log), str(pause), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def encoded(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def result(output: Path) -> object:
    if output.is_dir():
        return json.loads((output / "encoders" / "encoder.json").read_text())
    with np.load(output) as found:
        return hashlib.sha256(found["features"].tobytes()).hexdigest(), list(found["id"])


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("command", "output", "unit"),
    [
        (("probe", "demographics", "--all-images", "--variables", "sex", "--data"), "r", 64),
        (("embed",), "f.npz", BATCH),
    ],
    ids=["probe", "embed"],
)
def test_killed_and_continued(
    command: tuple[str, ...], output: str, unit: int, data: Path, tmp_path: Path, run: Run
) -> None:
    options: tuple[str | Path, ...] = ("--encoder", data / "encoder", "--device", "cpu", "--batch-size", str(BATCH))
    assert run(*command, data / "m.csv", *options, "-o", f"whole-{output}").code == 0
    log = tmp_path / "log"
    again: tuple[str | Path, ...] = (*command, data / "m.csv", *options, "-o", tmp_path / output)
    for _ in range(KILLS):
        before = len(encoded(log))
        process = start(log, 2, *again)
        deadline = time.monotonic() + 300
        while len(encoded(log)) <= before + unit and process.poll() is None:  # one unit is kept, the next is begun
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert process.poll() is None, "killed while it computes, or this tests nothing"
        process.kill()
        process.communicate()
    ran = finished(start(log, 0, *again), timeout=300)
    assert ran.code == 0, ran.err
    times = Counter(encoded(log))
    assert len(times) == IMAGES < times.total() <= IMAGES + KILLS * unit, (
        "only what was being computed is computed again"
    )
    assert result(tmp_path / output) == result(tmp_path / f"whole-{output}")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "no work is left"
