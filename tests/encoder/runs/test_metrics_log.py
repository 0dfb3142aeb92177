"""The log: what a killed run leaves, TensorBoard's own reader, numbers that are none."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from encoder.errors import LlavaRadError
from encoder.runs.metrics_log import MetricsLog, read_metrics
from tests.conftest import ROOT


def lines_of(folder: Path) -> list[dict[str, object]]:
    """Strict JSON, line by line."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    text = (folder / "metrics.jsonl").read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def events_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def assert_events_are_the_lines(folder: Path) -> None:
    expected: dict[str, list[tuple[int, float]]] = {}
    for line in lines_of(folder):
        for name, value in line.items():
            if name not in ("step", "warnings"):
                expected.setdefault(name, []).append((int(str(line["step"])), float(np.float32(str(value)))))
    assert events_of(folder) == expected and expected


def next_second() -> None:
    """TensorBoard orders its files by the second in their names; no real run resumes within the same one."""
    time.sleep(1 - time.time() % 1 + 0.01)


def test_lines_are_on_the_disk_at_once_and_tensorboard_has_the_same(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, step=0)
    log.write(0, {"probe_linear_auprc": 0.25})
    for step in (10, 20):
        log.write(step, {"loss": 1 / step, "lr": 1e-7 * step})
        assert lines_of(tmp_path)[-1] == {"step": step, "loss": 1 / step, "lr": 1e-7 * step}
    assert_events_are_the_lines(tmp_path)  # before it is closed
    log.close()
    assert_events_are_the_lines(tmp_path)


def test_a_resumed_run_cuts_off_what_it_will_write_again(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, step=0)
    for step in range(6):
        log.write(step, {"loss": float(step)})
        log.write(step, {"probe_linear_auprc": step / 10})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    next_second()
    log = MetricsLog(tmp_path, step=3)
    assert [(line["step"], "loss" in line) for line in lines_of(tmp_path)] == [
        (step, first) for step in range(4) for first in (True, False)
    ]
    log.write(4, {"loss": 40.0})
    log.close()
    assert [line["loss"] for line in lines_of(tmp_path) if "loss" in line] == [0, 1, 2, 3, 40]
    assert_events_are_the_lines(tmp_path)


def test_a_run_that_begins_anew_keeps_nothing(tmp_path: Path) -> None:
    """Killed before its first checkpoint, it probes step 0 a second time."""
    for value in (0.1, 0.2):
        next_second()
        log = MetricsLog(tmp_path, step=0)
        log.write(0, {"probe_linear_auprc": value})
        log.close()
    assert lines_of(tmp_path) == [{"step": 0, "probe_linear_auprc": 0.2}]
    assert_events_are_the_lines(tmp_path)


@pytest.mark.parametrize(
    "end",
    [
        b'{"step": 2, "loss"',
        b"\0" * 30,
        b"null",
        b"7\n",
        b'{"loss": 1}\n',
        b'{"step": Infinity}\n',
        b'{"step": "x"}\n',
        b"\xff\xfe\n",
        b"\n\n",
    ],
)
def test_a_damaged_end_is_cut_and_what_follows_stands_on_its_own_line(tmp_path: Path, end: bytes) -> None:
    whole = b'{"step": 1, "loss": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole + end)
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}]
    log = MetricsLog(tmp_path, step=1)
    log.write(2, {"loss": 0.25})
    log.close()
    assert lines_of(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


def test_a_last_line_that_lacks_its_newline_only_is_kept(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 0.5}')
    log = MetricsLog(tmp_path, step=1)
    log.write(2, {"loss": 0.25})
    log.close()
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]


def test_numbers_that_are_none_and_warnings(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, step=0)
    log.write(1, {"norm": float("inf"), "loss": float("nan")}, ["constant collapse: Ä"])
    log.close()
    assert lines_of(tmp_path) == [{"step": 1, "norm": None, "loss": None, "warnings": ["constant collapse: Ä"]}]


def test_tensorboard_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = MetricsLog(tmp_path, step=0)
    log.write(1, {"loss": 1.0})
    log.close()
    assert lines_of(tmp_path) == [{"step": 1, "loss": 1.0}] and not (tmp_path / "tensorboard").exists()


def test_a_disk_that_refuses_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LlavaRadError, match=r"^metrics\.jsonl could not be written: No such file or directory$"):
        MetricsLog(tmp_path / "none", step=0)
    log = MetricsLog(tmp_path, step=0)
    log._file.close()
    log._file = Path("/dev/full").open("w")  # noqa: SIM115
    with pytest.raises(LlavaRadError, match=r"^metrics\.jsonl could not be written: No space left on device$"):
        log.write(1, {"loss": 1.0})
    with contextlib.suppress(OSError):
        log.close()


def test_reading_a_folder_without_a_log(tmp_path: Path) -> None:
    with pytest.raises(LlavaRadError, match=r"has no metrics\.jsonl"):
        read_metrics(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from encoder.runs.metrics_log import MetricsLog
log = MetricsLog(Path(sys.argv[1]), step=0)
for step in range(1, 8):
    log.write(step, {"loss": step / 8})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_sigkill_loses_no_line_and_no_event(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path], env=environment).returncode == -signal.SIGKILL
    assert [line["step"] for line in lines_of(tmp_path)] == list(range(1, 8))
    assert_events_are_the_lines(tmp_path)
    next_second()
    log = MetricsLog(tmp_path, step=5)
    log.write(6, {"loss": 100.0})
    log.close()
    assert [line["loss"] for line in lines_of(tmp_path)] == [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 100.0]
    assert_events_are_the_lines(tmp_path)
