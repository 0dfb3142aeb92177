"""Two processes, by gloo: they learn what one learns from all images; a run goes on with another number of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoder.datasets.manifest import Row, write_manifest
from encoder.errors import ConfigError
from encoder.runs.config import dump
from encoder.runs.distributed import on_first, share
from tests.conftest import ROOT
from tests.encoder.pretraining.run_processes import finish, newest, start, start_two
from tests.encoder.pretraining.small_run import small_config, write_images
from tests.forked import context, ranks

SAME = ("optimization.drop_path=0", "loss.koleo=0", "optimization.steps=4")
"""KoLeo looks at one process's images and dropped paths are drawn there: without both, the runs are the same."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(dump(small_config(write_images(tmp_path / "images"), *SAME)))
    return file


def assert_close(run: Path, other: Path) -> None:
    ours, theirs = newest(run), newest(other)
    assert ours.keys() == theirs.keys()
    for group, tensors in theirs.items():
        assert ours[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(ours[group][name], tensor, atol=2e-6, rtol=1e-4, msg=f"{group} {name}")


def numbers(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("centering", "accumulation", "sharding"),
    [
        pytest.param("moving-average", 2, "none", marks=pytest.mark.slow),
        pytest.param("sinkhorn-knopp", 1, "fsdp", marks=pytest.mark.slow),
        pytest.param("moving-average", 2, "fsdp", marks=pytest.mark.nightly),
        pytest.param("sinkhorn-knopp", 1, "none", marks=pytest.mark.nightly),
    ],
)
def test_two_processes_equal_one_on_the_union(
    config: Path, tmp_path: Path, centering: str, accumulation: int, sharding: str
) -> None:
    """The same batches: one process accumulates as often, and each time has the images of both."""
    options = (f"loss.centering={centering}", f"optimization.accumulation={accumulation}")
    finish(start(config, tmp_path / "one", *options))
    finish(*start_two(config, tmp_path / "two", *options, f"engine.sharding={sharding}"))
    assert_close(tmp_path / "two", tmp_path / "one")
    for ours, theirs in zip(numbers(tmp_path / "two"), numbers(tmp_path / "one"), strict=True):
        for name in ("step", "loss", "dino", "ibot", "lr", "momentum", "gradient_norm_backbone"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


@pytest.mark.nightly
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
@pytest.mark.parametrize("count", [4, 8])
def test_many_processes_equal_one(config: Path, tmp_path: Path, count: int, sharding: str) -> None:
    options = ("optimization.batch_size=8", f"engine.sharding={sharding}")
    finish(start(config, tmp_path / "one", *options[:1]))
    finish(*start_two(config, tmp_path / "many", *options, count=count))
    assert_close(tmp_path / "many", tmp_path / "one")


@pytest.mark.parametrize(
    "sharding", [pytest.param("fsdp", marks=pytest.mark.slow), pytest.param("none", marks=pytest.mark.nightly)]
)
def test_probes_of_two_processes_are_those_of_one(config: Path, tmp_path: Path, sharding: str) -> None:
    rows = [
        Row(path, "made", f"p{number}", "", path.name, split="train" if number < 8 else "val", labels={"x": number % 2})
        for number, path in enumerate(sorted((tmp_path / "images").iterdir()))
    ]
    write_manifest(rows, tmp_path / "labelled.csv")
    options = (f"probe.manifest={tmp_path / 'labelled.csv'}", "probe.every=2", "probe.select=probe")
    finish(start(config, tmp_path / "one", *options))
    finish(*start_two(config, tmp_path / "two", *options, f"engine.sharding={sharding}"))
    scores = [
        [
            (line["step"], line["probe_linear_loss"], line["probe_knn_auroc"])
            for line in numbers(run)
            if "probe_linear_loss" in line
        ]
        for run in (tmp_path / "one", tmp_path / "two")
    ]
    assert [step for step, *_ in scores[1]] == [0, 2, 4]
    assert np.allclose(scores[0], scores[1], rtol=1e-3)


@pytest.mark.slow
def test_blocks_gathered_in_bfloat16_learn_what_whole_ones_do(config: Path, tmp_path: Path) -> None:
    """Gradients are added up in float32; the first loss is that of equal weights, rounded to bfloat16."""
    half = ("engine.precision=bf16", "optimization.base_lr=0.001")
    finish(*start_two(config, tmp_path / "whole", *half))
    finish(*start_two(config, tmp_path / "parts", *half, "engine.sharding=fsdp"))
    for ours, theirs in zip(numbers(tmp_path / "parts"), numbers(tmp_path / "whole"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-3)
        assert ours["gradient_norm_backbone"] == pytest.approx(theirs["gradient_norm_backbone"], rel=2e-2)
    assert {tensor.dtype for tensor in newest(tmp_path / "parts")["student"].values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_a_run_goes_on_with_another_number_of_processes(config: Path, tmp_path: Path, sharding: str) -> None:
    """Two steps on one process, two on two, two on one.

    SIGTERM to one of the two ends both after the next step that is logged, and checkpoints are read by the first alone.
    """
    steps = "optimization.steps=6"
    finish(start(config, tmp_path / "one", steps))
    run = tmp_path / "run"
    finish(start(config, run, steps, stop_after=2), code=130)
    apart = {"stop_after": 1, "elsewhere": tmp_path / "elsewhere"}
    finish(*start_two(config, run, steps, f"engine.sharding={sharding}", "engine.log_every=2", **apart), code=130)
    assert [line["step"] for line in numbers(run)] == [1, 2, 4]
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["cache"]
    finish(start(config, run, steps))
    assert_close(run, tmp_path / "one")
    assert [line["step"] for line in numbers(run)] == [1, 2, 4, 5, 6]


def _together(queue: Any, environment: dict[str, str]) -> None:
    os.environ |= environment
    rank = int(environment["RANK"])
    torch.distributed.init_process_group("gloo")

    def fail() -> None:
        raise ConfigError("of the first", hint="a hint")

    sent = {"a": {"x": torch.arange(6).view(2, 3).t(), "half": torch.tensor(0.5, dtype=torch.bfloat16)}, "b": {}}
    got = share(sent if rank == 0 else {}, torch.device("cpu"))
    numbers = {group: {name: tensor.tolist() for name, tensor in named.items()} for group, named in got.items()}
    answers: list[Any] = [on_first(lambda: rank), numbers, str(got["a"]["half"].dtype)]
    try:
        on_first(fail)
    except ConfigError as error:
        answers.append((str(error), error.hint))
    queue.put(answers)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_what_the_first_process_finds_or_refuses_holds_for_all() -> None:
    forked = context("torch.distributed")
    queue = forked.Queue()
    started = [forked.Process(target=_together, args=(queue, one)) for one in ranks(2)]
    for process in started:
        process.start()
    found = [queue.get(timeout=120) for _ in started]
    finish(*started)
    tensors = {"a": {"x": [[0, 3], [1, 4], [2, 5]], "half": 0.5}, "b": {}}
    assert found == [[0, tensors, "torch.bfloat16", ("of the first", "a hint")]] * 2


def test_alone_nothing_is_sent() -> None:
    groups = {"a": {"x": torch.ones(2)}}
    assert share(groups, torch.device("cpu")) == groups and on_first(lambda: 3) == 3


@pytest.mark.slow
def test_torchrun(config: Path, tmp_path: Path) -> None:
    """The guide's command, also where there is no GPU; what cannot be divided is said in words, once."""
    run = ["--no-python", sys.executable, "-c", "from llava_rad.cli import main; main()", "pretrain"]
    run += ["--config", str(config), "--output", str(tmp_path / "run")]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *run]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the teacher of step 4 is exported") == done.stderr.count("backbone: random weights") == 1
    finish(start(config, tmp_path / "one"))
    assert_close(tmp_path / "run", tmp_path / "one")
