"""The benchmark of a pre-training step: command line, and our half at a toy size."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.bench import pretraining
from scripts.bench.pretraining import CASES, Case, arguments, chosen
from scripts.bench.pretraining_ours import Ours, prepare

TOY = Case("toy", "fp32", 3, 3, 1, "", 16, 2, 2, 56, 56, 28, 2, 32, head_hidden=24, bottleneck=8)


def order(case: Case, folder: Path) -> dict[str, Any]:
    return {"case": asdict(case), "device": "cpu", "threads": 1, "compile": False, "folder": str(folder)}


def test_without_options_every_case_is_chosen_on_the_cpu() -> None:
    assert chosen(arguments([])) == [CASES["vits-fp32"], CASES["vits-bf16"], CASES["vitb-bf16"]]


def test_on_a_gpu_the_papers_sizes_are_chosen_in_three_batches() -> None:
    cases = chosen(arguments(["--device", "cuda"]))
    assert [case.batch for case in cases] == [8, 16, 32]
    assert {(case.name, case.global_size, case.local_size, case.steps) for case in cases} == {
        ("vitb-bf16", 518, 196, 20)
    }


def test_options_change_cases() -> None:
    (case,) = chosen(arguments(["--case", "vits-bf16", "--steps", "7", "--warmup", "0", "--batch", "4"]))
    assert case == replace(CASES["vits-bf16"], steps=7, warmup=0, batch=4)


def test_an_unknown_case_is_refused() -> None:
    with pytest.raises(SystemExit):
        arguments(["--case", "vitg"])


def test_results_are_compared_without_dropped_paths_in_float32() -> None:
    checked = CASES["vitb-bf16"].checked()
    assert (checked.drop_path, checked.precision, checked.global_size, checked.image_size) == (0.0, "fp32", 224, 518)


def test_peers_input_is_prepared(tmp_path: Path) -> None:
    prepare(order(TOY, tmp_path))
    inputs, weights = load_file(tmp_path / "inputs.safetensors"), load_file(tmp_path / "weights.safetensors")
    assert {name: (tuple(one.shape), one.dtype) for name, one in inputs.items()} == {
        "global": ((2, 3, 56, 56), torch.uint8),
        "local": ((2, 3, 28, 28), torch.uint8),
        "masks": ((2, 3, 16), torch.bool),
        "normalisation": ((2,), torch.float64),
    }
    assert int(inputs["masks"].any(2).sum()) == 3  # half of the six global crops
    assert tuple(weights["student.dino_head.last_layer.weight_v"].shape) == (32, 8)
    assert not torch.equal(weights["student.backbone.norm.weight"], weights["teacher.backbone.norm.weight"])


def test_our_half_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    prepare(order(TOY.checked(), tmp_path))
    weights = load_file(tmp_path / "weights.safetensors")
    for role in ("student", "teacher"):  # all prototypes alike: every probability is 1/32, every cross entropy ln 32
        weights[f"{role}.dino_head.last_layer.weight_v"].fill_(1)
    save_file(weights, tmp_path / "weights.safetensors")
    ours = Ours(order(TOY.checked(), tmp_path))
    check = ours.check()
    for turn in (1, 2):
        assert check[f"dino, pass {turn}"] == pytest.approx(math.log(32), rel=1e-6)
        assert check[f"ibot, pass {turn}"] == pytest.approx(math.log(32) / 2, rel=1e-6)  # half the crops are masked
    before = [parameter.clone() for parameter in ours.model.student.parameters()]
    for _ in range(2):
        ours.train()
    assert ours.done == 2
    moved = [not torch.equal(a, b) for a, b in zip(before, ours.model.student.parameters(), strict=True)]
    assert any(moved)  # the second step's learning rate is not 0


@pytest.mark.nightly
def test_report_without_a_peer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "vits-fp32", TOY)
    assert pretraining.main(["--case", "vits-fp32", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    ours = report["toy, 3 samples"]["ours"]
    assert len(ours["steps"]) == 3
    assert ours["per s"] == pytest.approx(3 / ours["s"])
    assert list(report["toy, 3 samples"]) == ["ours"] and "ratios" not in report


def test_different_results_are_a_failure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"ours": {"dino": 1.0, "ibot": 2.0}, "peer": {"dino": 1.0002, "ibot": 2.0}}
    monkeypatch.setattr(pretraining, "answers", lambda *_: answers)
    assert pretraining.main(["--peer-python", "unused", "--case", "vits-fp32"]) == 1
    out = capsys.readouterr().out
    assert out.count("differs") == 1 and "vits" not in out  # nothing is timed
