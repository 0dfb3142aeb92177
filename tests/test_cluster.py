"""The guide's scripts on two machines with two processes each: one is lost, and the results are those of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from encoder.runs.config import dump
from tests.cluster import Cluster, cluster
from tests.encoder.pretraining.run_processes import finish, start
from tests.encoder.pretraining.small_run import small_config, write_images
from tests.encoder.runs.test_distributed import SAME, assert_close
from tests.llava_rad import tiny_model
from tests.llava_rad.benchmark.conftest import METRICS, benchmark, contents, pairs
from tests.llava_rad.training import runs, small_pairs

pytestmark = pytest.mark.nightly
__all__ = ["pairs"]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "cluster").mkdir()
    with cluster(tmp_path / "cluster") as made:
        yield made


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_pretraining_by_slurm(machines: Cluster, tmp_path: Path, sharding: str) -> None:
    config = tmp_path / "config.yaml"
    steps = ("optimization.steps=60", "engine.checkpoint_every=2", "engine.keep_checkpoints=30")
    config.write_text(dump(small_config(write_images(tmp_path / "images"), *SAME, *steps)))
    arguments = ["pretrain", "-c", config, "-o", tmp_path / "two", f"engine.sharding={sharding}"]
    machines.lose_one("slurm", arguments, tmp_path / "two" / "checkpoints" / "step-00000004")
    assert not (tmp_path / "two" / "export").exists()
    machines.run("slurm", arguments)
    assert "going on from step" in machines.log()
    finish(start(config, tmp_path / "one"))
    assert_close(tmp_path / "two", tmp_path / "one")


@pytest.mark.deepspeed
def test_training_with_zero_3_by_torchrun(machines: Cluster, tmp_path: Path, tiny: Path) -> None:
    each = ("optimization.epochs=6", "engine.checkpoint_every=1", "optimization.micro_batch_size=1")
    overrides = small_pairs.overrides(small_pairs.make(tmp_path, 8, 4), tiny, *each)
    arguments = ["train", "-c", "tiny", *overrides, "engine.deepspeed=zero3", "-o", tmp_path / "two"]
    machines.lose_one("torchrun", arguments, tmp_path / "two" / "checkpoints" / "checkpoint-2")
    machines.run("torchrun", arguments)
    assert "going on from step" in machines.log()
    runs.train(tmp_path / "one", overrides)
    assert runs.close(runs.losses(tmp_path / "two"), runs.losses(tmp_path / "one"), 1e-5)


def test_benchmark_by_torchrun(machines: Cluster, tmp_path: Path, tiny: Path, pairs: Path) -> None:
    arguments = ["benchmark", "--dataset", "csv", "--data", pairs, *METRICS, "--model", tiny, "--protocol", "paper"]
    output = ("-o", tmp_path / "two")
    machines.lose_one(
        "torchrun",
        [*arguments, *output],
        tmp_path / "two" / "predictions" / "shards" / "tiny" / "shard-00002-of-00004.jsonl",
    )
    machines.run("torchrun", [*arguments, *output])
    benchmark(pairs, tmp_path / "one", "--model", tiny, "--protocol", "paper")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
