"""Comparison of runs before and after: scores agree with the runs' logs, intervals are those of patients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from encoder.datasets.manifest import Row, write_manifest
from encoder.pretraining import train as engine
from encoder.pretraining.probes import Predictions
from scripts.compare_pretraining import judge, main, table
from tests.encoder.pretraining.small_run import small_config
from tests.encoder.pretraining.test_probes import manifest_rows


def predictions(truth: list[list[float]], said: list[list[float]], patients: str) -> Predictions:
    rows = tuple(
        Row(path=f"{i}.png", dataset="d", subject=patient, split="val", number=i) for i, patient in enumerate(patients)
    )
    names = tuple(f"label {i}" for i in range(len(truth[0])))
    return Predictions(rows, names, np.array(truth), np.array(said), -np.array(said), 1.0)


def test_scores_by_hand() -> None:
    """The first label: positives at ranks 1 and 3 of 4. The second is known of two images; the third is never found."""
    truth = [[1, 1, 0], [0, np.nan, 0], [1, np.nan, 0], [0, 0, 0]]
    said = predictions(truth, [[4, 0, 1], [3, 9, 1], [2, 9, 1], [1, 1, 1]], "abcd")
    expected = [((1 + 2 / 3) / 2 + 0.5) / 2, (0.75 + 0.0) / 2, (0.25 + 1.0) / 2]
    np.testing.assert_allclose(judge(said, 2).points, expected)


def test_patients_are_drawn_whole() -> None:
    """Two patients with all positives and all negatives: a sample has both, and separates them, or has no score."""
    said = predictions([[1.0]] * 3 + [[0.0]] * 3, [[2.0]] * 3 + [[1.0]] * 3, "aaabbb")
    samples = judge(said, 40).samples
    empty = np.isnan(samples[:, 0])
    assert 5 < empty.sum() < 35  # half of them
    np.testing.assert_array_equal(samples[~empty], np.tile([1.0, 1.0, 0.0], (40 - empty.sum(), 1)))
    one_by_one = predictions([[1.0]] * 3 + [[0.0]] * 3, [[2.0]] * 3 + [[1.0]] * 3, "abcdef")
    assert np.isnan(judge(one_by_one, 40).samples[:, 0]).sum() < 10


def test_changes_are_measured_on_the_same_samples() -> None:
    rng = np.random.default_rng(0)
    truth, said = (rng.random((60, 1)) < 0.4).astype(float), rng.normal(size=(60, 1))
    patients = "".join(chr(ord("A") + i) for i in range(60))
    start = judge(predictions(truth.tolist(), said.tolist(), patients), 50)
    line = table({"x": start}, {"run": ("x", start)})[-1]
    assert line.count("+0.000 (+0.000 to +0.000)") == 3


@pytest.mark.nightly
def test_before_and_after_agree_with_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = manifest_rows(tmp_path / "images")
    write_manifest(rows, tmp_path / "labelled.csv")
    for seed in (0, 1):
        config = small_config(
            tmp_path / "images", f"seed={seed}", "init.source=random", "optimization.base_lr=0.05",
            f"probe.manifest={tmp_path / 'labelled.csv'}",
        )  # fmt: skip
        engine.run(config, tmp_path / f"run-{seed}", progress=False)
    capsys.readouterr()
    runs = [str(tmp_path / f"run-{seed}") for seed in (0, 1)]
    assert main([*runs, "--draws", "20", "--plot", str(tmp_path / "curves.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    for seed in (0, 1):
        log = map(json.loads, (tmp_path / f"run-{seed}" / "metrics.jsonl").open())
        probed = [line for line in log if "probe_linear_auprc" in line]
        for name, line in ((f"before: random, seed {seed}", probed[0]), (f"after: run-{seed}", probed[-1])):
            cells = next(cells for one in lines if (cells := one.split(" | "))[0] == f"| {name}")
            for cell, kind in zip(cells[1:], ("linear_auprc", "linear_auroc", "knn_auroc"), strict=True):
                assert float(cell.split()[0].strip(",")) == pytest.approx(line[f"probe_{kind}"], abs=6e-4)
    assert lines[-1].startswith("40 images to fit, 20 to judge, 28 px, ")


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} has no export")
