"""The cost of probes by step: sums by hand, and a real run with its estimate."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from encoder.datasets.manifest import write_manifest
from encoder.pretraining import train as engine
from encoder.pretraining.probes import Probe, ProbeResult
from encoder.pretraining.student_teacher import StudentTeacher
from scripts.bench import probe_cost
from scripts.bench.probe_cost import Call, calls
from tests.encoder.pretraining.small_run import small_config, write_images
from tests.encoder.pretraining.test_probes import manifest_rows


def test_seconds_between_two_calls_are_those_of_the_steps() -> None:
    """10 steps of 8 images at 4 images/s are 20 s, 5 at 8 images/s are 5 s."""
    lines = [
        {"step": 0, "probe_seconds": 3.0},
        {"step": 10, "images_per_s": 4.0},
        {"step": 10, "probe_seconds": 2.0},
        {"step": 15, "images_per_s": 8.0},
        {"step": 20, "images_per_s": 8.0},
        {"step": 20, "probe_seconds": 1.0},
    ]
    assert calls(lines, 8) == [Call(0, 3.0, 0.0), Call(10, 2.0, 20.0), Call(20, 1.0, 10.0)]


@pytest.mark.slow
def test_a_run_has_its_probes_by_step_and_an_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a clock on which a step takes a second and a call of the probes a hundred: they are not in the images/s."""
    now, probed, update = [0.0], Probe.run, StudentTeacher.update_teacher

    def run(self: Probe, *arguments: Any) -> ProbeResult:
        now[0] += 100
        return probed(self, *arguments)

    def step(self: StudentTeacher, momentum: float) -> None:
        now[0] += 1
        update(self, momentum)

    monkeypatch.setattr(Probe, "run", run)
    monkeypatch.setattr(StudentTeacher, "update_teacher", step)
    monkeypatch.setattr(engine, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    write_manifest(manifest_rows(tmp_path / "probe"), tmp_path / "labelled.csv")
    changes = ["probe.manifest=labelled.csv", "probe.every=2", "optimization.steps=4"]
    config = small_config(write_images(tmp_path / "images"), *changes)
    with contextlib.chdir(tmp_path):
        engine.run(config, tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert calls(lines, 4) == [Call(0, 100, 0), Call(2, 100, 2), Call(4, 100, 2)]

    with pytest.raises(SystemExit):
        probe_cost.main([str(tmp_path / "run")])  # from another folder than that of the run
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "run: probe.manifest" in line and line.endswith(
        "relative paths of its configuration begin in --directory DIR"
    )
    arguments = ["--directory", str(tmp_path), "--json", str(tmp_path / "numbers.json")]
    assert probe_cost.main([str(tmp_path / "run"), *arguments]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed[2:5]] == [
        ["0", "100.00", "0.0"], ["2", "100.00", "2.0", "5000.00%"], ["4", "100.00", "2.0", "5000.00%"],
    ]  # fmt: skip
    assert printed[5].startswith("100.00 s a call, 1 s a step: 5000.00% of the training time every 2 steps, 10.00% ")
    assert printed[6].startswith("estimate: ")
    found = json.loads((tmp_path / "numbers.json").read_text())["run"]
    assert found["share at the default interval"] == pytest.approx(0.1)
    assert found["estimate"]["training"] == pytest.approx(2)


def test_the_estimate_of_the_papers_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe_cost.main([]) == 0
    assert "every 1,000 steps of" in (text := capsys.readouterr().out) and "without fitting" in text


def test_a_run_without_probes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from encoder.runs.config import dump

    (tmp_path / "config.yaml").write_text(dump(small_config(tmp_path)))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "images_per_s": 1.0}\n')
    with pytest.raises(SystemExit):
        probe_cost.main([str(tmp_path)])
    assert "no probes in its metrics.jsonl" in capsys.readouterr().err
