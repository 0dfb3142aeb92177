"""Data reading, augmentation and scores of the demonstration model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.errors import ModelError
from encoder.preprocessing import RECIPES
from scripts.demo import evaluate, features, nih
from tests.scripts.phantom_files import write_nih


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_nih(
        tmp_path,
        [
            {"nih_image_index": "a.png", "patient_id": 1, "split": "train", "Effusion": 1, "Mass": 1},
            {"nih_image_index": "b.png", "patient_id": 2, "split": "train"},
            {"nih_image_index": "c.png", "patient_id": 3, "split": "val", "Infiltration": 1},
        ],
    )
    (tmp_path / "bboxes_1024px.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h]\n"
        "a.png,Effusion,100,700,200,100\n"  # left half of the image = the patient's right
        "a.png,Mass,400,300,300,100\n"  # across the middle: tells no side
        "b.png,Nodule,100,300,50,50\n"  # not among its labels: left out
        "c.png,Infiltrate,700,300,100,100\n"
        "c.png,Infiltrate,100,300,100,100\n"
    )
    return tmp_path


def test_cases(folder: Path) -> None:
    first, second = nih.read_cases(folder, "train")
    assert first.labels == {"Effusion", "Mass"} and first.sides == {"Effusion": "right"}
    assert second.labels == frozenset() and second.sides == {}
    (third,) = nih.read_cases(folder, "val")
    assert third.sides == {"Infiltration": "bilateral"}
    with pytest.raises(ModelError, match="no rows"):
        nih.read_cases(folder, "test")
    with pytest.raises(ModelError, match=r"labels\.csv"):
        nih.read_cases(folder / "images", "train")


def test_held_out_patients_are_disjoint() -> None:
    cases = [nih.Case(Path(f"{n}.png"), str(n // 3), frozenset(), {}) for n in range(3000)]
    fit, held = nih.hold_out(cases, 0.15)
    assert not {case.patient for case in fit} & {case.patient for case in held}
    assert 0.11 < len(held) / len(cases) < 0.19 and len(fit) + len(held) == 3000


def test_augmentation_keeps_left_and_right_and_repeats() -> None:
    pixels = np.zeros((200, 200), np.uint8)
    pixels[:, 150:] = 200  # bright on the right of the image
    for seed in range(20):
        out = features.augment(pixels, np.random.default_rng(seed))
        assert out.dtype == np.uint8 and min(out.shape) >= 150
        half = out.shape[1] // 2
        assert out[20:-20, half:].mean() > out[20:-20, :half].mean() + 20
    first, second = (features.augment(pixels, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_features_of_views(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import Dinov2Config, Dinov2Model

    from encoder.backbones.dinov2 import RadDino

    torch.manual_seed(0)
    tiny = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=14)
    encoder = RadDino(Dinov2Model(tiny))
    recipe = RECIPES["rad-dino-224"]
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (260, 300), dtype=np.uint8)).save(path)
    out = features.encode(encoder, recipe, paths, views=2, batch_size=4)
    assert out.shape == (3, 2, 256, 32) and out.dtype == torch.float16
    alone = encoder(recipe.normalise(recipe.apply(features.read_image(paths[2]), from_dicom=False)[None])).patches[0]
    torch.testing.assert_close(out[2, 0].float(), alone, atol=5e-3, rtol=0)
    assert not torch.equal(out[2, 0], out[2, 1])


def test_scores_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    from scripts.demo.evaluate import as_row, label_text

    rng = np.random.default_rng(2)
    cases = [nih.Case(Path("x"), "1", frozenset(rng.choice(nih.LABELS, rng.integers(0, 4))), {}) for _ in range(80)]
    truth = [case.labels for case in cases]
    reports = evaluate.prior_sampled(80, cases, seed=1)
    scores = evaluate.score(reports, truth)
    said = np.array([as_row(label_text(report)) for report in reports])
    true = np.array([as_row(labels) for labels in truth])
    f1 = metrics.f1_score(true[:, :14], said[:, :14], average="macro", zero_division=0)
    assert scores.macro_f1 == pytest.approx(f1)
    assert scores.micro_f1 == pytest.approx(metrics.f1_score(true[:, :14], said[:, :14], average="micro"))
    assert scores.no_finding_f1 == pytest.approx(metrics.f1_score(true[:, 14], said[:, 14]))


def test_always_normal_finds_nothing() -> None:
    truth = [frozenset({"Mass"}), frozenset()]
    scores = evaluate.score(evaluate.always_normal(2), truth)
    assert (scores.macro_f1, scores.micro_f1, scores.distinct_reports) == (0.0, 0.0, 0.5)
    assert scores.no_finding_f1 == pytest.approx(2 / 3)
