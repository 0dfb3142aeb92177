"""Whole runs: exact resume, also after SIGKILL; several processes; refusals; the export."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from encoder.errors import ConfigError
from encoder.pretraining import engine
from encoder.pretraining.checkpoints import Checkpoints
from encoder.pretraining.loading import dump
from tests.conftest import ROOT
from tests.encoder.pretraining.small_run import small_config, write_images

CODE = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from encoder.pretraining.engine import run
from encoder.pretraining.loading import load_config
run(load_config(sys.argv[1], sys.argv[3:]), Path(sys.argv[2]), progress=False)
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def start(config: Path, run: Path, *overrides: str, **environment: str) -> subprocess.Popen[bytes]:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, "-c", CODE, config, run, *overrides], env={**settings, **environment})


def teacher_of(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    checkpoints = Checkpoints(run / "checkpoints", 3)
    newest = checkpoints.latest()
    assert newest is not None
    return checkpoints.load(newest)[0]


def assert_same(run: Path, other: Path) -> None:
    ours, theirs = teacher_of(run), teacher_of(other)
    for group, tensors in theirs.items():
        assert ours[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(ours[group][name], tensor), f"{group} {name}"


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(images, "optimization.drop_path=0.3")
    torch.set_num_threads(1)
    export = engine.run(config, tmp_path / "whole", progress=False)
    update, calls = engine.StudentTeacher.update_teacher, []

    def killed(self: engine.StudentTeacher, momentum: float) -> None:
        calls.append(momentum)
        if len(calls) == 4:
            raise RuntimeError("stop")
        update(self, momentum)

    monkeypatch.setattr(engine.StudentTeacher, "update_teacher", killed)
    with pytest.raises(RuntimeError, match="stop"):
        engine.run(config, tmp_path / "halves", progress=False)
    monkeypatch.undo()
    assert Checkpoints(tmp_path / "halves" / "checkpoints", 3).steps() == [2]
    engine.run(config, tmp_path / "halves", progress=False)
    assert_same(tmp_path / "halves", tmp_path / "whole")
    losses = [
        [(row["step"], row["loss"]) for row in map(json.loads, (tmp_path / run / "metrics.jsonl").open())]
        for run in ("whole", "halves")
    ]
    assert losses[0] == losses[1] and [step for step, _ in losses[0]] == [1, 2, 3, 4, 5, 6]
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(export, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert type(model).__name__ == "Dinov2Model"


def test_one_teacher_update_for_each_step_with_accumulation(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    monkeypatch.setattr(engine.StudentTeacher, "update_teacher", lambda self, momentum: calls.append(momentum))
    config = small_config(images, "optimization.accumulation=2", "optimization.steps=3")
    engine.run(config, tmp_path / "run", progress=False)
    assert len(calls) == 3


def test_another_configuration_is_refused_in_words(images: Path, tmp_path: Path) -> None:
    engine.run(small_config(images, "optimization.steps=2"), tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match=r"another optimization\.base_lr"):
        engine.run(small_config(images, "optimization.steps=2", "optimization.base_lr=1"), tmp_path / "run")


def test_one_image_on_a_process_is_refused_while_koleo_is_on(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="KoLeo needs at least two images"):
        engine.run(small_config(images, "optimization.batch_size=1"), tmp_path / "run", progress=False)


@pytest.mark.slow
def test_twenty_kills_leave_the_unbroken_runs_weights(images: Path, tmp_path: Path) -> None:
    """SIGKILL at twenty random moments of a 60-step run: never unreadable, and bit-equal in the end."""
    file = tmp_path / "config.yaml"
    file.write_text(dump(small_config(images, "optimization.steps=60", "optimization.drop_path=0.3")))
    assert start(file, tmp_path / "whole").wait(120) == 0
    kills, rng = 0, torch.Generator().manual_seed(0)
    for trial in range(20):
        run = tmp_path / f"run-{trial}"
        at = int(torch.randint(1, 59, (), generator=rng))
        process = start(file, run)
        journal = run / "metrics.jsonl"
        while process.poll() is None and (not journal.is_file() or journal.read_bytes().count(b"\n") < at):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert start(file, run).wait(120) == 0
        assert_same(run, tmp_path / "whole")
    assert kills >= 18  # a run may end before the signal reaches it


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def together(config: Path, run: Path, *overrides: str) -> None:
    port = str(free_port())
    group = [
        start(
            config,
            run,
            *overrides,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            ACCELERATE_USE_CPU="true",
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(120) for process in group] == [0, 0]
    finally:
        for process in group:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("centering", ["moving-average", "sinkhorn-knopp"])
def test_two_processes_equal_one_on_the_union(images: Path, tmp_path: Path, centering: str) -> None:
    """KoLeo looks at one process's images and dropped paths are drawn there: without both, the runs are the same."""
    file = tmp_path / "config.yaml"
    overrides = ["optimization.drop_path=0", "loss.koleo=0", f"loss.centering={centering}", "optimization.steps=3"]
    file.write_text(dump(small_config(images, *overrides)))
    assert start(file, tmp_path / "one").wait(120) == 0
    together(file, tmp_path / "two")
    ours, theirs = teacher_of(tmp_path / "two"), teacher_of(tmp_path / "one")
    for group in ("student", "teacher", "centres"):
        for name, tensor in theirs[group].items():
            torch.testing.assert_close(ours[group][name], tensor, atol=2e-5, rtol=1e-4, msg=f"{group} {name}")
