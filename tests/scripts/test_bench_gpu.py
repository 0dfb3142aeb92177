"""The prepared script for a GPU: all measurements at toy size, limits, crashes, and what it needs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.bench import gpu
from scripts.bench.gpu_measurements import FUNCTIONS

LACKING = ("deepspeed", "gradio", "evaluate", "pydicom", "imagecodecs", "highdicom")
"""Packages of the project that a machine lent for measurements may not have."""


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


ROWS = {
    "decode-compiled": ["batch 1, compiled"],
    "pretraining-compiled": ["pre-training, batch 2, compiled", "pre-training, batch 3, compiled"],
    "decode-eager": ["batch 1, eager"],
    "reports": ["reports, 2 at a time", "reports, 3 at a time"],
    "first-word": ["first word"],
    "decode-transformers": ["batch 1, transformers", "batch 1, transformers, static cache"],
    "pretraining-eager": ["pre-training, batch 2, eager", "pre-training, batch 3, eager"],
    "lora": ["LoRA, micro-batch 1", "LoRA, micro-batch 2"],
    "full": [f"full fine-tuning, all in bf16, micro-batch {batch}" for batch in (1, 2)],
    "decode-4bit": ["batch 1, compiled, 4 bits"],
    "probing": ["image vectors, batches of 2"],
}


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(["reports", "lora"], marks=pytest.mark.slow, id="few"),
        pytest.param(list(ROWS), marks=pytest.mark.nightly, id="all"),
    ],
)
def test_measurements_run_at_toy_size_without_the_packages_of_other_commands(
    chosen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({LACKING!r}))\n")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "out"
    assert gpu.main(["--device", "cpu", "--toy", "--output", str(out), "--only", *chosen]) == 0, rows(out)
    found = rows(out)
    assert {row["name"] for row in found if "seconds" in row} == set(chosen)
    assert {name: [row["row"] for row in found if row["name"] == name and "row" in row] for name in chosen} == {
        name: ROWS[name] for name in chosen
    }
    assert all(row["tokens each"] == 6 for row in found if "tokens each" in row)  # no report ended early
    assert len(capsys.readouterr().out.splitlines()) == len(found)


def test_every_measurement_has_a_function_and_a_limit() -> None:
    assert set(FUNCTIONS) == set(gpu.MEASUREMENTS) == set(ROWS)
    with pytest.raises(SystemExit):
        gpu.main(["--output", "x", "--only", "nothing"])


ROW = "import subprocess, sys, time\nprint('{\"row\": 1}', flush=True)\n"


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run some code in place of the measurements."""
    folder = tmp_path / "scripts" / "bench"
    folder.mkdir(parents=True)
    for name, text in (("../__init__", ""), ("__init__", ""), ("gpu_measurements", ROW + code)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(gpu, "MEASUREMENTS", {"one": 30, "two": 30})


def test_a_crash_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "assert sys.argv[1] == 'two', 'no'\n")
    assert gpu.main(["--output", str(tmp_path / "out"), "--device", "cpu"]) == 1
    assert [(row["name"], row.get("row"), row.get("error")) for row in rows(tmp_path / "out")] == [
        ("one", 1, None),
        ("one", None, "AssertionError: no"),
        ("two", 1, None),
        ("two", None, None),
    ]
    assert "Traceback" in (tmp_path / "out" / "one.log").read_text()


@pytest.mark.slow
def test_one_that_takes_too_long_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "left"
    child = f"import time, pathlib; time.sleep(2); pathlib.Path({str(left)!r}).touch()"
    fake(tmp_path, monkeypatch, f"subprocess.run([sys.executable, '-c', {child!r}])\ntime.sleep(60)\n")
    found = list(gpu.measure("one", [], 1, tmp_path / "log"))
    assert [row.get("error") for row in found] == [None, "stopped after 1 s"]
    time.sleep(2)
    assert not left.exists()


def test_rows_arrive_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "time.sleep(60)\n")
    assert next(gpu.measure("one", [], 30, tmp_path / "log")) == {"name": "one", "row": 1}


def test_without_time_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "raise SystemExit(1)\n")
    assert gpu.main(["--output", str(tmp_path / "out"), "--minutes", "0.1"]) == 1
    assert rows(tmp_path / "out") == [{"name": name, "error": "no time left"} for name in ("one", "two")]
