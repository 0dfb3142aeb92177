"""The service as a process: SIGHUP loads the model again, SIGTERM answers what was accepted, SIGKILL fails aloud."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import llava_rad
from scripts.soak.serving import Client
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.acceptance(row=29)]

CODE = """
import sys
from pathlib import Path
from app.service.application import Settings, run
from llava_rad.generation.options import GenerationOptions
run(Settings(port=0, options=GenerationOptions(model=Path(sys.argv[1]))))
"""


@contextmanager
def process(model: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """Run the service on a free port."""
    with log.open("wb") as written:
        running = subprocess.Popen(
            [sys.executable, "-c", CODE, str(model)], stdout=written, stderr=written, cwd=log.parent,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while (found := re.search(r"http://127.0.0.1:(\d+)", log.read_text())) is None:
            assert running.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        client = Client("127.0.0.1", int(found.group(1)), headers={})
        while not answers(client):
            assert running.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield running, client
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()


def answers(client: Client) -> bool:
    try:
        return client.call("GET", "/health/ready").status == 200
    except OSError:
        return False


def ask(client: Client, path: Path) -> str | None:
    """The report, or None where the connection broke."""
    try:
        answer = client.call("POST", "/v1/reports", path.read_bytes())
    except (OSError, http.client.HTTPException):
        return None
    assert answer.status == 200, answer.body
    return answer.body.decode()


def test_signals_lose_no_answer_without_saying_so(tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    expected = [report.to_json() for report in llava_rad.generate(chest, tiny)]
    with process(tiny, tmp_path / "a.log") as (running, client), ThreadPoolExecutor(4) as pool:
        found = [pool.submit(ask, client, path) for path in chest * 3]
        running.send_signal(signal.SIGHUP)
        assert [one.result() for one in found] == expected * 3
        end = time.monotonic() + 60
        while "the model was loaded again" not in (tmp_path / "a.log").read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        found = [pool.submit(ask, client, path) for path in chest[:4]]
        while 'route="POST /v1/reports"' not in client.call("GET", "/metrics").body.decode():
            time.sleep(0.01)
        time.sleep(0.2)
        running.send_signal(signal.SIGTERM)
        # those that were accepted are answered; a connection that was refused is seen by its client
        answers = [one.result() for one in found]
        assert all(answer in (None, report) for answer, report in zip(answers, expected[: len(found)], strict=True))
        assert running.wait(30) == 0
        text = (tmp_path / "a.log").read_text()
        assert "Traceback" not in text and "unexpected" not in text and "Doe" not in text and str(chest[0]) not in text


def test_after_sigkill_every_request_is_answered_or_fails(tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    expected = [report.to_json() for report in llava_rad.generate(chest, tiny)]
    with process(tiny, tmp_path / "b.log") as (running, client), ThreadPoolExecutor(4) as pool:
        found = [pool.submit(ask, client, path) for path in chest * 5]
        while sum(one.done() for one in found) < 3:
            time.sleep(0.01)
        running.kill()
        results = [one.result() for one in found]
    assert None in results
    assert all(answer in (None, report) for answer, report in zip(results, expected * 5, strict=True))
