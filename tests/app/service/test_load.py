"""Sixteen clients while the model is loaded again and the process is killed: what was accepted is answered or fails."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import llava_rad
from scripts.soak.serving import Answer, Client, reporting
from tests.app.service.test_reports import form

pytestmark = pytest.mark.slow

CLIENTS = 16
BROKEN = (OSError, http.client.HTTPException)


class Load:
    """Clients that send reports and batches until the server is gone, and what became of each request."""

    def __init__(self, client: Client, files: list[bytes], expected: list[str]) -> None:
        self.client, self.files, self.expected = client, files, expected
        self.ended, self.outcomes = threading.Event(), Counter[str]()
        self.accepted: dict[str, list[int]] = {}  # batch -> numbers of its files
        self.done = set[str]()

    def send(self, number: int) -> None:
        """Ask for reports one after the other."""
        while not self.ended.is_set():
            chosen = number % len(self.files)
            number += 1
            try:
                answer = self.client.call("POST", "/v1/reports", self.files[chosen])
            except BROKEN:
                self.outcomes["broken"] += 1
                return
            self._count(answer, lambda text, chosen=chosen: text == self.expected[chosen])  # type: ignore[misc]

    def submit(self, number: int) -> None:
        """Send batches, and poll the one before until it is done."""
        while not self.ended.is_set():
            chosen = [(number + at) % len(self.files) for at in range(4)]
            body, kind = form(*(("images", self.files[at]) for at in chosen))
            try:
                answer = self.client.call("POST", "/v1/batches", body, **{"content-type": kind})
                if answer.status == 202:
                    self.accepted[answer.json()["id"]] = chosen
                    self._poll(answer.json()["id"], chosen)
                else:
                    self._count(answer, lambda text: False)
            except BROKEN:
                return
            number += 4

    def _poll(self, batch: str, chosen: list[int]) -> None:
        while not self.ended.is_set():
            state = self.client.call("GET", f"/v1/batches/{batch}").json()
            reports = [result["report"] for result in state["results"]]
            numbers = [result["number"] - 1 for result in state["results"]]
            assert reports == [json.loads(self.expected[chosen[at]]) for at in numbers]
            if state["state"] == "done":
                self.done.add(batch)
                return
            time.sleep(0.05)

    def _count(self, answer: Answer, right: Callable[[str], bool]) -> None:
        if answer.status == 200:
            assert right(answer.body.decode()), "another report"
            self.outcomes["answered"] += 1
        else:
            assert answer.status in (429, 503) and answer.json()["reason"], answer.body
            self.outcomes["refused"] += 1
            time.sleep(0.1)


def reloaded(log: Path) -> int:
    return log.read_text().count("the model was loaded again")


@pytest.mark.nightly
def test_reloads_and_a_kill_under_load_lose_no_request_silently(tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    expected = [report.to_json() for report in llava_rad.generate(chest, tiny)]
    options = ("--model", str(tiny), "--batch-size", "8")
    with reporting(tmp_path, *options) as running, ThreadPoolExecutor(CLIENTS) as pool:
        load = Load(running.client(), [path.read_bytes() for path in chest], expected)
        work = [pool.submit(load.send if n < CLIENTS - 4 else load.submit, n) for n in range(CLIENTS)]

        def until(true: Callable[[], bool]) -> None:
            end = time.monotonic() + 300
            while not true():
                assert time.monotonic() < end, load.outcomes
                for one in work:
                    if one.done():
                        one.result()
                time.sleep(0.02)

        for reloads in (1, 2):
            before = load.outcomes["answered"]
            until(lambda before=before: load.outcomes["answered"] >= before + 20)  # type: ignore[misc]
            running.process.send_signal(signal.SIGHUP)
            until(lambda reloads=reloads: reloaded(running.log) == reloads)  # type: ignore[misc]
        answered = load.outcomes["answered"]
        until(lambda: load.outcomes["answered"] >= answered + 20 and bool(load.done))
        assert load.outcomes["broken"] == 0, "reloading broke a connection"
        running.kill()
        for one in work:
            one.result(120)
        load.ended.set()
    assert load.outcomes["broken"] > 0 and load.outcomes["answered"] >= 60
    assert load.accepted.keys() >= load.done
    with reporting(tmp_path, *options) as running:
        client = running.client()
        for batch in load.accepted:  # the done ones as well: results are in memory only
            answer = client.call("GET", f"/v1/batches/{batch}")
            assert (answer.status, answer.json()["reason"]) == (410, "lost")
        assert client.call("POST", "/v1/reports", load.files[0]).body.decode() == expected[0]
