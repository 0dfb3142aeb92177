"""Training on phantoms: every step runs in seconds, and a model that has learnt nothing fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import phantom_training
from tests.forked import Command
from tests.llava_rad.conftest import finished
from tests.llava_rad.training import runs


def test_reports_are_assigned_to_other_images(tmp_path: Path) -> None:
    lines = [{"input": {"sha256": name}, "text": f"report of {name}"} for name in "abc"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    phantom_training.assign_to_others(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assigned = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["input"]["sha256"], line["text"][-1]) for line in assigned] == [("b", "a"), ("c", "b"), ("a", "c")]


def forked(*arguments: str | Path) -> str:
    """Run ``llava-rad`` without loading torch for every command."""
    done = finished(Command(arguments, 1, runs.PRELOAD), timeout=runs.LIMIT)
    assert done.code == 0, done.err
    return done.out


@pytest.mark.slow
def test_the_chain_runs_and_a_model_that_has_learnt_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phantom_training, "command", forked)
    changes = ["model.recipe=rad-dino-56", "optimization.epochs=1", "evaluation.samples=0", "engine.log_every=1"]
    arguments = [str(tmp_path / "out"), "--n", "40", "--size", "96", *changes]
    assert phantom_training.main(arguments) == 1
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert result["passed"] is False and result["images"] > 3
    assert set(result["seconds"]) == {"phantoms", "reports", "training", "generation", "evaluation"}
    assert result["matched"]["rules_micro_f1_14"] < phantom_training.MATCHED
    assert (tmp_path / "out" / "run" / "curves.png").is_file()
    assert phantom_training.main(arguments) == 1  # the data and the run are there, nothing is drawn or trained again
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "phantoms" not in again["seconds"] and again["matched"] == result["matched"]
