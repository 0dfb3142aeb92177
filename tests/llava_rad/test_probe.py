"""``llava-rad probe`` on small drawn images: tables, resume, several encoders, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.manifest import Row, write_manifest
from tests.llava_rad.conftest import Run

IMAGES = 48


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright images have the label A and are of women; B is noise, C is always absent."""
    folder = tmp_path_factory.mktemp("probe")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(IMAGES):
        bright = number % 2
        pixels = generator.integers(0, 80, (80, 80)) + 120 * bright * (np.arange(80) > 40)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        labels = {"A": float(bright), "B": float(generator.integers(0, 2)), "C": 0.0, "No Finding": 1.0 - bright}
        rows.append(
            Row(
                folder / f"{number}.png", "vindr-cxr", f"p{number}", image=f"i{number}",
                split="train" if number < 32 else "test", labels=labels, number=number + 1,
                attributes={"sex": "MF"[bright], "age": str(20 + number)},
            )
        )  # fmt: skip
    write_manifest(rows, folder / "m.csv")
    return folder / "m.csv"


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two small encoders with random weights in RAD-DINO's form."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("encoders")
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
        Dinov2Model(config).save_pretrained(folder / name)
    return [folder / "first", folder / "second"]


def linear(manifest: Path, *encoders: Path | str) -> tuple[str | Path, ...]:
    named = [part for encoder in encoders for part in ("--encoder", encoder)]
    return ("probe", "linear", "--data", manifest, *named, "--recipe", "rad-dino-28", "-o", "r", "--device", "cpu")


@pytest.mark.parametrize("protocol", ["logistic", "cached", "paper"])
def test_linear(protocol: str, manifest: Path, encoders: list[Path], run: Run, tmp_path: Path) -> None:
    epochs = {"logistic": "1", "cached": "300", "paper": "40"}[protocol]
    quick = ("--epochs", epochs, "--learning-rate", "0.1", "--seeds", "2")
    ran = run(*linear(manifest, encoders[0]), "--protocol", protocol, *quick)
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "r" / "encoders" / "first.json").read_text())
    assert min(found["auroc"]["A"]) > {"logistic": 0.9, "cached": 0.75, "paper": 0.65}[protocol]
    assert len(found["auroc"]["A"]) == (1 if protocol == "logistic" else 2)
    assert (found["positives"]["A"], found["judged"], found["trained"]) == (8, 16, 32)
    assert "Left out" in ran.out and "C" in ran.out[ran.out.index("Left out") :]
    names = {path.relative_to(tmp_path / "r").as_posix() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    assert names >= {"run.json", "table.md", "table.tex", "figure.svg", "environment.json", "encoders/first.json"}


def test_an_encoder_is_added_and_none_computed_twice(
    manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    logistic = ("--protocol", "logistic", "--labels", "A")
    assert run(*linear(manifest, encoders[0]), *logistic).code == 0
    file = tmp_path / "r" / "encoders" / "first.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "auroc": {"A": [0.123]}, "macro": {"auroc": [0.123], "auprc": [0.1]}}))
    ran = run(*linear(manifest, *encoders), *logistic)
    assert ran.code == 0 and "12.3" in ran.out, "what was there is taken"
    assert "first AUROC" in ran.out and "second AUROC" in ran.out
    other = run(*linear(manifest, f"first={encoders[1]}"), *logistic)
    assert "12.3" not in other.out, "another encoder of that name is not"


def test_the_papers_column_stands_beside_known_data_sets(manifest: Path, encoders: list[Path], run: Run) -> None:
    ran = run(*linear(manifest, encoders[0]), "--protocol", "logistic", "--labels", "A")
    assert "paper: RAD-DINO AUPRC" in ran.out and "52.8" in ran.out
    assert (
        "paper"
        not in run(*linear(manifest, encoders[0])[:-4], "-o", "q", "--protocol", "logistic", "--dataset", "x").out
    )


def test_other_settings_are_not_mixed(manifest: Path, encoders: list[Path], run: Run) -> None:
    assert run(*linear(manifest, encoders[0]), "--protocol", "logistic").code == 0
    refused = run(*linear(manifest, encoders[0]), "--protocol", "logistic", "--labels", "A")
    assert refused.code == 2 and "other data or settings" in refused.err
    assert run(*linear(manifest, encoders[0]), "--protocol", "logistic", "--labels", "A", "--overwrite").code == 0


def test_demographics(manifest: Path, encoders: list[Path], run: Run, tmp_path: Path) -> None:
    call = ("probe", "demographics", "--data", manifest, "--encoder", encoders[0], "--recipe", "rad-dino-28")
    ran = run(*call, "-o", "d", "--all-images", "--variables", "sex,age", "--device", "cpu")
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "d" / "encoders" / "first.json").read_text())["variables"]
    assert np.mean(found["sex"]["accuracy"]) > 0.75 and found["sex"]["classes"] == {"F": 24, "M": 24}
    assert found["age"]["classes"] == {"20-40": 20, "40-60": 20, "60-80": 8}
    assert "99.6 (0.1)" in ran.out and "75.1" not in ran.out
    healthy = run(*call, "-o", "h", "--variables", "sex")
    assert healthy.code == 1 and "classes are too few" in healthy.err, "all men here have no finding, and no woman"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("linear", "--protocol", "ridge"), 2),
        (("linear", "--labels", "D"), 1),
        (("linear", "--encoder", "no/such"), 5),
        (("demographics", "--variables", "height"), 2),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], code: int, manifest: Path, encoders: list[Path], run: Run) -> None:
    named = () if "--encoder" in arguments else ("--encoder", encoders[0])
    ran = run("probe", *arguments, "--data", manifest, *named, "-o", "r", "--offline")
    assert ran.code == code, ran.err
