"""Benchmark: a model that others trained beside one of this project's, from the same images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import llava_rad
from tests.llava_rad import vision_language
from tests.llava_rad.benchmark.conftest import METRICS
from tests.llava_rad.conftest import Run

pytestmark = pytest.mark.slow


def test_models_of_both_kinds_are_scored_and_the_run_continues(
    tiny: Path, pairs: Path, run: Run, tmp_path: Path
) -> None:
    folder = vision_language.make(tmp_path / "qwen", "qwen3_vl")
    profile = vision_language.profile(folder)
    command = (
        "benchmark", "--dataset", "csv", "--data", pairs, "-o", tmp_path / "results", *METRICS, "--limit", "4",
        "--model", f"ours={tiny}", "--model", f"theirs={folder}", "--profile", profile,
    )  # fmt: skip
    done = run(*command)
    assert done.code == 0, done.err[-3000:]
    summary = json.loads((tmp_path / "results" / "summary.json").read_text())
    assert json.dumps(summary).count("whole-56") and "theirs" in json.dumps(summary)
    lines = (tmp_path / "results" / "predictions" / "theirs.jsonl").read_text().splitlines()
    texts = {row["id"]: row["prediction"] for row in map(json.loads, lines)}
    assert len(texts) == 4 and len(set(texts.values())) > 1
    rows = {row["id"]: row for row in map(json.loads, pairs.read_text().splitlines())}
    for key, text in texts.items():
        image = pairs.parent / rows[key]["image"]
        (report,) = llava_rad.generate(image, folder, profile=str(profile), device="cpu", force=True)
        assert text == report.text
    again = run(*command)
    assert (again.code, again.out) == (0, done.out)
