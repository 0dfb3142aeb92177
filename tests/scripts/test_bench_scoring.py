"""The benchmark of scoring: both tables at toy sizes, and detection of different tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.bench import scoring
from scripts.bench.generate import Write
from scripts.bench.random_parts import REAL
from scripts.bench.scoring_decode import ANSWER, BATCHES, PROMPT
from tests.llava_rad import tiny_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("scoring") / "tiny")


@pytest.mark.slow
def test_protocols_side_by_side(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(checkpoint), "--images", "3", "--rounds", "2", "--json", str(tmp_path / "found.json")]
    assert scoring.main(words) == 0
    result = json.loads((tmp_path / "found.json").read_text())
    names = ["paper", "transformers, float32, batch 1", "fast", "transformers, bfloat16, batch 32"]
    assert list(result["sides"]) == names
    assert result["sides"]["paper"]["identical"] == 3
    assert result["sides"]["fast"]["x speed"]["value"] > 0
    assert all(len(side["rounds"]) == 2 for side in result["sides"].values())
    assert result["precision"]["float32_matmul_precision"] == "highest"
    assert "x speed" in capsys.readouterr().out


@pytest.mark.slow
def test_other_tokens_than_transformers_are_a_failure(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scoring.sides

    def changed(source: str | None, count: int) -> dict[str, Write]:
        name = "transformers, float32, batch 1"
        return {**whole(source, count), name: lambda: [[0]] * count}

    monkeypatch.setattr(scoring, "sides", changed)
    assert scoring.main(["--model", str(checkpoint), "--images", "2", "--rounds", "1"]) == 1


@pytest.mark.nightly
def test_the_seven_billion_code_at_toy_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--seven-b", "--tiny", "--rounds", "1", "--json", str(tmp_path / "found.json")]
    assert scoring.main(words) == 0
    result = json.loads((tmp_path / "found.json").read_text())
    names = ("ours", "ours, as a graph", "transformers")
    assert list(result["batches"]) == [f"batch {batch}, {name}" for batch in (1, 2, 3) for name in names]
    assert all(side["reports/s"] > 0 for side in result["batches"].values())
    assert all(result["batches"][f"batch {batch}, ours, as a graph"]["equal tokens"] > 0.6 for batch in (1, 2, 3))
    assert "GB/s" in capsys.readouterr().out


def test_sizes_are_vicunas() -> None:
    import torch
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(REAL.llama_config())
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(6.74e9, rel=0.001)
    assert (PROMPT, ANSWER, BATCHES) == (1409, 100, (16, 32, 64))
