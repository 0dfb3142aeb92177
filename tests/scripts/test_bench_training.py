"""The benchmark of a training step: command line, both halves at toy sizes, and detection of different results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from scripts.bench import steps, training
from scripts.bench.harness import Report
from scripts.bench.training import CASES, Case, arguments, chosen
from scripts.bench.worker import Worker


def test_without_options_every_case_of_the_device_is_chosen() -> None:
    assert chosen(arguments([])) == CASES["cpu"]
    assert [case.name for case in chosen(arguments(["--device", "cuda"]))] == [
        "7b-lora",
        "7b-zero2-offload",
        "7b-zero3-offload",
    ]


def test_options_change_cases() -> None:
    words = ["--case", "bf16", "--steps", "7", "--warmup", "0", "--batch", "4"]
    assert chosen(arguments(words)) == [Case("bf16", "bf16", batch=4, steps=7, warmup=0)]


def test_a_case_of_another_device_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["--case", "7b-lora"]) == 2
    assert "no such case" in capsys.readouterr().err


def test_sizes_are_those_of_the_documentation() -> None:
    for case in CASES["cpu"]:
        assert ((case.image_size // 14) ** 2, case.vocabulary) == (1369, 32000)
    for case in CASES["cuda"]:
        assert (case.width, case.layers, case.inner, case.encoder_width) == (4096, 32, 11008, 768)


@pytest.mark.nightly
def test_both_train_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["--tiny", "--case", "bf16-checkpointing", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    check = report["check: float32, 2 samples a step"]
    assert len(check) == 2 * training.CHECKED_STEPS
    assert max(row["difference"] for row in check.values()) < 1e-5
    assert len({check[f"loss, step {step}"]["ours"] for step in (1, 2, 3)}) == 3  # not one batch three times
    ours, peer = report["bf16-checkpointing, 2 samples"].values()
    for side in (ours, peer):
        assert len(side["steps"]) == 2
        assert side["peak MB"] > side["libraries MB"] > 0
    assert ours["per s"] == pytest.approx(2 * ours["about"]["tokens_per_sample"] / ours["s"])
    ratios = report["ratios"]["bf16-checkpointing, 2 samples: ours / peer"]
    assert ratios["speed"]["value"] == pytest.approx(peer["s"] / ours["s"])


@pytest.mark.nightly
def test_features_before_the_norm_are_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(python: str, module: str, argv: Sequence[str], threads: int) -> Worker:
        return Worker(python, module, [json.dumps(json.loads(argv[0]) | {"before_norm": True})], threads)

    monkeypatch.setattr(steps, "Worker", spoiled)
    assert training.main(["--tiny", "--case", "fp32"]) == 1
    out = capsys.readouterr().out
    assert "<- differs" in out and "per s" not in out  # nothing is timed


@pytest.mark.parametrize(("loss", "same"), [(1.0, True), (float("nan"), False)])
def test_a_loss_that_is_no_number_is_a_failure(loss: float, same: bool) -> None:
    report = Report(arguments([]))
    assert steps.check(report, "", {"ours": {"loss, step 1": loss}, "peer": {"loss, step 1": 1.0}}) is same


class _Card:
    """Imitates a worker on a GPU that holds two samples."""

    def __init__(self, name: str, case: Case) -> None:
        self.batch = case.batch

    def ask(self, command: str) -> dict[str, Any]:
        if command == "about":
            flops = {"model": 60.0, "run": 80.0}
            return {"name": "ours", "device": "NVIDIA H100 80GB HBM3", "tokens_per_sample": 1500.0, "tera_flops": flops}
        if command == "memory":
            return {"peak": 10**10 * self.batch, "base": 0}
        return {"error": "out of memory"} if self.batch > 2 else {"wall_s": 0.25 * self.batch, "kernel_s": 0.0}

    def __enter__(self) -> _Card:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_gpu_is_filled_until_it_is_full(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def starter(*_: object) -> Iterator[Callable[..., _Card]]:
        yield _Card

    monkeypatch.setattr(steps, "starter", starter)
    report = Report(arguments([]))
    assert training.run(report, replace(CASES["cuda"][0], steps=3), {"device": "cuda", "threads": 1}) == 2
    assert [name for name in report.data if name.startswith("7b-lora")] == [f"7b-lora, {n} samples" for n in (1, 2, 4)]
    row = report.data["7b-lora, 2 samples"]["ours"]
    assert {key: row[key] for key in ("s", "per s", "peak MB", "of peak", "of peak, computed")} == {
        "s": 0.5, "per s": 6000.0, "peak MB": 20_000.0, "of peak": pytest.approx(240 / 989),
        "of peak, computed": pytest.approx(320 / 989),
    }  # fmt: skip
    assert report.data["7b-lora, 4 samples"]["ours"]["error"] == "out of memory"
    assert "out of memory" in capsys.readouterr().out
