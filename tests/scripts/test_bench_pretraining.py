"""The benchmark of a pre-training step: command line, statistics, and our half at a toy size."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.bench import pretraining
from scripts.bench.pretraining import CASES, Case, arguments, chosen, differences, ratio
from scripts.bench.pretraining_ours import Ours, prepare

TOY = Case("toy", "", 16, 2, 2, 56, 56, 28, 2, 3, 32, "fp32", 3, 1, head_hidden=24, bottleneck=8)


def test_no_words_mean_every_case_on_the_cpu() -> None:
    assert chosen(arguments([])) == [CASES["vits-fp32"], CASES["vits-bf16"], CASES["vitb-bf16"]]


def test_a_gpu_means_the_papers_sizes_in_three_batches() -> None:
    cases = chosen(arguments(["--device", "cuda"]))
    assert [case.batch for case in cases] == [8, 16, 32]
    assert {(case.name, case.global_size, case.local_size, case.steps) for case in cases} == {
        ("vitb-bf16", 518, 196, 20)
    }


def test_words_change_cases() -> None:
    (case,) = chosen(arguments(["--case", "vits-bf16", "--steps", "7", "--warmup", "0", "--batch", "4"]))
    assert case == replace(CASES["vits-bf16"], steps=7, warmup=0, batch=4)


def test_an_unknown_case_is_refused() -> None:
    with pytest.raises(SystemExit):
        arguments(["--case", "vitg"])


def test_results_are_compared_without_dropped_paths_in_float32() -> None:
    checked = CASES["vitb-bf16"].checked()
    assert (checked.drop_path, checked.precision, checked.global_size, checked.image_size) == (0.0, "fp32", 224, 518)


def test_ratio_is_that_of_medians() -> None:
    found = ratio([1.0, 3.0, 2.0], [4.0, 4.0, 4.0])
    assert found.value == 0.5
    assert (found.low, found.high) == (0.25, 0.75)  # 7/27 of the samples have median 1, as many 3


def test_ratio_pairs_rounds() -> None:
    slow = [1.0, 10.0, 5.0, 2.0]  # a busy machine that hurts both alike leaves no spread
    found = ratio(slow, [2 * value for value in slow])
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_differences_are_relative_to_the_peer() -> None:
    assert differences({"dino": 9.0, "koleo": -1.0}, {"dino": 10.0, "koleo": -2.0}) == pytest.approx(
        {"dino": 0.1, "koleo": 0.5}
    )


def test_peers_input_is_prepared(tmp_path: Path) -> None:
    prepare(TOY, tmp_path)
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
    prepare(TOY.checked(), tmp_path)
    weights = load_file(tmp_path / "weights.safetensors")
    for role in ("student", "teacher"):  # all prototypes alike: every probability is 1/32, every cross entropy ln 32
        weights[f"{role}.dino_head.last_layer.weight_v"].fill_(1)
    save_file(weights, tmp_path / "weights.safetensors")
    order = {"case": asdict(TOY.checked()), "device": "cpu", "threads": 1, "compile": False, "folder": str(tmp_path)}
    ours = Ours(order)
    check = ours.check()
    for turn in (1, 2):
        assert check[f"dino, pass {turn}"] == pytest.approx(math.log(32), rel=1e-6)
        assert check[f"ibot, pass {turn}"] == pytest.approx(math.log(32) / 2, rel=1e-6)  # half the crops are masked
    before = [parameter.clone() for parameter in ours.model.student.parameters()]
    step, split = ours.step(), ours.split()
    assert step["cpu_s"] > 0 and min(split.values()) > 0
    assert ours.done == 2
    moved = [not torch.equal(a, b) for a, b in zip(before, ours.model.student.parameters(), strict=True)]
    assert any(moved)  # the second step's learning rate is not 0


def test_report_without_a_peer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "vits-fp32", TOY)
    assert pretraining.main(["--case", "vits-fp32", "--format", "json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["cases"]
    assert len(result["ours"]["steps"]) == 3
    assert result["ours"]["images_per_s"] == pytest.approx(3 / result["ours"]["seconds"])
    assert "peer" not in result and "time" not in result
    pretraining.show(result)
    assert "images/CPU s" in capsys.readouterr().out


def test_different_results_are_a_failure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(case: Case, options: object) -> dict[str, object]:
        ours, peer = {"dino": 1.0, "ibot": 2.0}, {"dino": 1.0002, "ibot": 2.0}
        return {"case": asdict(case), "ours": ours, "peer": peer, "differences": differences(ours, peer)}

    monkeypatch.setattr(pretraining, "compare", compare)
    assert pretraining.main(["--peer-python", "unused", "--case", "vits-fp32"]) == 1
    out = capsys.readouterr().out
    assert out.count("differs") == 1 and "vits" not in out  # nothing is timed
