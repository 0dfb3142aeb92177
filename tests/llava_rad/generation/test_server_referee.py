"""The same model by both doors: in this process, and behind the server of transformers (needs the package openai)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import llava_rad
from llava_rad import Report, ReportWriter
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.sources import expand
from llava_rad.generation.study import StudyInputs
from tests.llava_rad import vision_language

pytestmark = [pytest.mark.slow, pytest.mark.referee]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_language.make(tmp_path_factory.mktemp("server") / "qwen", "qwen2_5_vl")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """``transformers serve`` on a free port; the value of ``--model``."""
    pytest.importorskip("openai", reason="the server of transformers needs the package openai")
    code = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", str(folder), "--device", "cpu", "--dtype", "float32", "--port", "0"]
    log = folder.parent / "log"
    with log.open("wb") as written:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=written, stderr=written, env=environment, start_new_session=True)
    try:
        end, found = time.monotonic() + 300, None
        while found is None:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            found = re.search(r"running on http://\S+:(\d+)", log.read_text())
            time.sleep(0.2)
        yield f"openai:http://localhost:{found[1]}/v1#{folder}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_texts_are_the_same_by_both_doors(address: str, folder: Path, chest: list[Path]) -> None:
    more = {"profile": str(vision_language.profile(folder)), "device": "cpu", "dtype": "float32"}
    here = llava_rad.generate(chest, folder, batch_size=1, **more)
    there = llava_rad.generate(chest, address, batch_size=3, **more)
    assert [one.text for one in there] == [one.text for one in here]
    assert len({one.text for one in here}) > 1, "the words depend on the image"


def test_studies_and_streams_are_the_same_by_both_doors(
    address: str, folder: Path, chest: list[Path], lateral: Path
) -> None:
    inputs = StudyInputs(lateral=lateral, prior=chest[1], indication="Cough.")
    texts = []
    for model in (folder, address):
        profile = str(vision_language.profile(folder))
        options = GenerationOptions(model=model, profile=profile, device="cpu", dtype="float32")
        with ReportWriter(options, inputs) as writer:
            *pieces, report = writer.stream(expand([chest[0]]).sources[0])
            assert isinstance(report, Report) and "".join(map(str, pieces)) == report.text
            texts.append(report.text)
    assert texts[0] == texts[1] != ""
