"""The benchmark of scoring: both tables at toy sizes, and that a difference is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.bench import scoring, scoring_decode
from scripts.bench.scoring_decode import SEVEN_B
from tests.llava_rad import tiny_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("scoring") / "tiny")


def test_protocols_side_by_side(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(checkpoint), "--images", "3", "--rounds", "2", "--json", str(tmp_path / "found.json")]
    assert scoring.main(words) == 0
    result = json.loads((tmp_path / "found.json").read_text())
    names = ["paper", "transformers, float32, batch 1", "fast", "transformers, bfloat16, batch 32"]
    assert list(result["sides"]) == names
    assert result["sides"]["paper"]["not_as_paper"] == 0
    assert result["sides"]["paper"]["paper_over_this"]["wall_s"]["value"] == 1
    assert all(len(side["rounds"]) == 2 for side in result["sides"].values())
    assert result["precision"]["float32_matmul_precision"] == "highest"
    assert "x paper" in capsys.readouterr().out


def test_other_tokens_than_transformers_are_a_failure(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scoring.sides

    def changed(source: str | None, count: int) -> dict[str, scoring.Callable[[], scoring.Rows]]:
        name = "transformers, float32, batch 1"
        return {**whole(source, count), name: lambda: [[0]] * count}

    monkeypatch.setattr(scoring, "sides", changed)
    assert scoring.main(["--model", str(checkpoint), "--images", "2", "--rounds", "1"]) == 1


def test_the_seven_billion_code_at_toy_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--seven-b", "--tiny", "--rounds", "1", "--json", str(tmp_path / "found.json")]
    assert scoring.main(words) == 0
    result = json.loads((tmp_path / "found.json").read_text())
    assert list(result["batches"]) == ["1", "2", "3"]
    for found in result["batches"].values():
        assert list(found) == ["ours", "ours, as a graph", "transformers"]
        assert all(side["reports_per_second"] > 0 for side in found.values())
        assert found["ours, as a graph"]["equal_tokens"] > 0.6  # bfloat16
    assert "GB/s" in capsys.readouterr().out


def test_sizes_are_vicunas() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SEVEN_B.config))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(6.74e9, rel=0.001)
    assert (SEVEN_B.prompt, SEVEN_B.answer, SEVEN_B.batches) == (1409, 100, (16, 32, 64))


def test_memory_that_is_out_is_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"ours": {"error": "out of memory"}}
    facts = {
        "device": "x",
        "copy_bytes_per_second": 1.0,
        "weight_bytes_per_token": 1,
        "roofline_tokens_per_second": 1.0,
    }
    scoring_decode.show({**facts, "batches": {"64": found}})
    assert "out of memory" in capsys.readouterr().out
