"""``llava-rad probe segment`` and ``nnunet`` on small drawn images: tables, refusals, memory, several processes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.forked import Command
from tests.llava_rad.commands.test_probe import damaged, encoders, redraw
from tests.llava_rad.conftest import Run
from tests.shared_readers import _idle_readers, shared_readers

__all__ = ["_idle_readers", "encoders", "shared_readers"]


def test_segment(masked: Path, encoders: list[Path], run: Run, tmp_path: Path) -> None:
    call = (
        "probe",
        "segment",
        "--data",
        masked,
        "--encoder",
        encoders[0],
        "--recipe",
        "rad-dino-84",
        "--device",
        "cpu",
    )
    quick = ("--no-augment", "--epochs", "40", "--batch-size", "6", "--learning-rate", "0.05", "-o", "s")
    ran = run(*call, *quick, "--strata", "sex", "--few-shot", "2", "--target", "lungs")
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "s" / "encoders" / "first-linear.json").read_text())
    assert found["structures"]["square"]["images"] == 6 and found["structures"]["square"]["mean"] > 0.6
    assert found["parameters"] == 25 and set(found["groups"]["sex"]["groups"]) == {"F", "M"}
    assert {point["images"] for point in found["few_shot"]} == {2, 12}
    assert [path.name for path in (tmp_path / "s" / "work").glob("first-linear-*/*.png")] == ["overlays.png"]
    assert "95.9 (1.5)" in ran.out and "2 training images" in ran.out
    assert re.search(r"worst sex +none", ran.out) and "at least 30 images" in ran.out, "three images each"
    again = run(*call, *quick, "--strata", "sex", "--few-shot", "2", "--target", "lungs")
    assert again.out == ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--head", "deeplab"), 2, "choose from linear"),
        (("--target", "heart"), 2, "choose from lungs"),
        (("--few-shot", "0"), 2, "numbers of images"),
        (("--structures", "heart"), 1, "no image has a mask"),
        (("--strata", "ethnicity"), 1, "no image of the manifest has the attribute"),
    ],
)
def test_segment_refuses(
    arguments: tuple[str, ...], code: int, message: str, masked: Path, encoders: list[Path], run: Run
) -> None:
    call = ("probe", "segment", "--data", masked, "--encoder", encoders[0], "--recipe", "rad-dino-84", "-o", "s")
    ran = run(*call, *arguments)
    assert ran.code == code and message in ran.err.replace("\n", " ").replace("│", ""), ran.err


def test_a_corrupt_image_or_mask_is_left_out_of_segmentation(
    masked: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    table = damaged(masked, tmp_path / "bad", 3)
    (table.parent / "20-mask.png").write_bytes(b"")
    call = ("probe", "segment", "--data", table, "--encoder", encoders[0], "--recipe", "rad-dino-84", "-o", "s")
    quick = ("--no-augment", "--epochs", "1", "--batch-size", "6", "--device", "cpu", "--overlays", "0")
    ran = run(*call, *quick, "--max-unreadable", "0.1")
    assert ran.code == 0, ran.err
    assert "cannot be read: 2 images" in ran.err and "11 training, 4 validation and 5 test images" in ran.out


def test_masks_are_looked_at_before_a_run(masked: Path, encoders: list[Path], run: Run, tmp_path: Path) -> None:
    table = damaged(masked, tmp_path / "bad")
    Image.fromarray(np.full((84, 120), 255, np.uint8)).save(table.parent / "3-mask.png")
    call = ("probe", "segment", "--data", table, "--recipe", "rad-dino-84", "--encoder", encoders[0], "-o", "s")
    stated = run(*call, "--validate")
    wrong = (
        "masks       21 of 22 images were read with their masks; not row 4: a mask has another aspect than its image"
    )
    assert stated.code == 0 and wrong in stated.out.splitlines(), stated.out + stated.err


def test_empty_masks_are_said_before_the_training(masked: Path, encoders: list[Path], run: Run, tmp_path: Path) -> None:
    table = damaged(masked, tmp_path / "empty")
    for number in range(16, 22):
        Image.fromarray(np.zeros((84, 84), np.uint8)).save(table.parent / f"{number}-mask.png")
    call = ("probe", "segment", "--data", table, "--encoder", encoders[0], "--recipe", "rad-dino-84", "-o", "s")
    ran = run(*call, "--no-augment", "--epochs", "1", "--device", "cpu")
    assert ran.code == 1 and "all masks of the 6 test images are empty" in ran.err
    assert not (tmp_path / "s" / "work").exists()


@pytest.mark.parametrize("file", ["0.png", "0-mask.png", "20-mask.png"])
def test_segmentation_of_other_images_or_masks_is_refused(
    file: str, masked: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    table = damaged(masked, tmp_path / "copy")
    call = ("probe", "segment", "--data", table, "--encoder", encoders[0], "--recipe", "rad-dino-84", "-o", "s")
    quick = ("--no-augment", "--epochs", "1", "--device", "cpu", "--overlays", "0")
    first = run(*call, *quick)
    assert first.code == 0
    redraw(table.parent / file)
    refused = run(*call, *quick)
    assert refused.code == 2 and "image files that have changed since" in refused.err and refused.out == ""
    anew = run(*call, *quick, "--overwrite")
    assert anew.code == 0 and (anew.out != first.out or file != "20-mask.png"), "a test mask changes the score"


SEGMENT = ("--no-augment", "--epochs", "2", "--batch-size", "6", "--device", "cpu", "--overlays", "0")


@pytest.mark.slow
def test_segment_states_its_memory_and_micro_batches_change_rounding_alone(
    masked: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    call = ("probe", "segment", "--data", masked, "--encoder", encoders[0], "--recipe", "rad-dino-84")
    whole = run(*call, *SEGMENT, "-o", "whole")
    parts = run(*call, *SEGMENT, "-o", "parts", "--micro-batch", "2")
    assert whole.code == parts.code == 0, whole.err + parts.err
    assert "memory of a step (first, linear): about" in whole.err and "6 images, 6 at a time" in whole.err
    assert "6 images, 2 at a time" in parts.err
    found = [
        json.loads((tmp_path / name / "encoders" / "first-linear.json").read_text())["together"]["mean"]
        for name in ("whole", "parts")
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    stated = run(*call, "-o", "v", "--head", "linear", "--head", "upernet", "--validate")
    assert stated.code == 0 and "memory      linear: about" in stated.out and "memory      upernet: about" in stated.out
    for wrong in ("0", "many", "-1"):
        assert run(*call, *SEGMENT, "-o", "w", "--micro-batch", wrong).code == 2


@pytest.mark.slow
def test_nnunets_predictions_are_a_row_beside_the_heads(
    masked: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    where = tmp_path / "nnUNet_raw" / "Dataset501_Squares"
    given = ("--data", masked, "--recipe", "rad-dino-84")
    written = run("probe", "nnunet", *given, "-o", where)
    assert written.code == 0, written.err
    assert "12 train, 4 val, 6 test, 0 left out" in written.err and "nnUNetv2_train 501 2d 0" in written.err
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    shutil.copy(where / "dataset.json", predictions)
    for image in (where / "imagesTs").iterdir():  # squares are dark: a model that is nearly always right
        dark = np.asarray(Image.open(image)) < 120
        Image.fromarray(dark.astype(np.uint8)).save(predictions / image.name.replace("_0000", ""))
    alone = run("probe", "segment", *given, "--nnunet", predictions, "-o", "alone")
    assert alone.code == 0, alone.err
    facts = json.loads((tmp_path / "alone" / "encoders" / "nnU-Net-external.json").read_text())
    assert facts["structures"]["square"]["mean"] > 0.95 and facts["parameters"] is None and facts["sizes"] == [12, 4, 6]
    beside = run(
        "probe", "segment", *given, *SEGMENT, "--nnunet", predictions, "-o", "both", "--encoder", encoders[0],
        "--few-shot", "2",
    )  # fmt: skip
    assert beside.code == 0 and "nnU-Net, external" in beside.out and "first, linear" in beside.out, beside.err
    next(predictions.glob("*.png")).unlink()
    spoiled = run("probe", "segment", *given, "--nnunet", predictions, "-o", "spoiled")
    assert spoiled.code == 1 and "1 of nnU-Net's 6 predictions are missing" in spoiled.err
    other = run("probe", "segment", "--data", masked, "--recipe", "rad-dino-56", "--nnunet", predictions, "-o", "o")
    assert other.code == 1 and "nnU-Net was trained on other images" in other.err


def test_weights_of_the_u_net_are_named_where_they_are_missing(masked: Path, run: Run) -> None:
    call = ("probe", "segment", "--data", masked, "-o", "u", "--head", "unet")
    missing = run(*call, "--unet-weights", "none.safetensors")
    assert (
        missing.code == 1 and "smp-hub/efficientnet-b6.imagenet" in missing.err and "model.safetensors" in missing.err
    )
    assert run(*call[:-1], "linear", "--encoder", "x", "--unet-weights", "none.safetensors").code == 2
    assert run(*call, "--micro-batch", "9").code == 2, "its statistics are of ten images"


@pytest.mark.nightly
def test_a_u_net_says_what_it_starts_from(masked: Path, run: Run, tmp_path: Path) -> None:
    library = pytest.importorskip("segmentation_models_pytorch")
    from safetensors.torch import save_file

    state = library.Unet("efficientnet-b6", encoder_weights=None).encoder.state_dict()
    save_file(state, tmp_path / "imagenet.safetensors")
    call = ("probe", "segment", "--data", masked, "--recipe", "rad-dino-84", "-o", "u", "--head", "unet", *SEGMENT[1:])
    plain = run(*call, "--epochs", "1")
    assert plain.code == 0 and "U-Net not ImageNet-initialised, unet" in plain.out, plain.err
    start = run(*call, "--epochs", "1", "--unet-weights", tmp_path / "imagenet.safetensors")
    assert start.code == 0 and "U-Net from imagenet, unet" in start.out, start.err
    folder = next((tmp_path / "u" / "work").glob("U-Net-from-*"))
    assert len(json.loads((folder / "segmenter.json").read_text())["config"]["image_net"]) == 64


@pytest.mark.nightly
def test_two_processes_write_the_results_of_one(masked: Path, encoders: list[Path], run: Run, tmp_path: Path) -> None:
    """As torchrun starts them: each takes half of each batch, the first one writes and speaks."""
    call = ("probe", "segment", "--data", masked, "--encoder", encoders[0], "--recipe", "rad-dino-84", "--epochs", "2")
    call += ("--batch-size", "5", "--few-shot", "3", "--strata", "sex", "--overlays", "1", "--device", "cpu")
    one = run(*call, "-o", "one")
    assert one.code == 0, one.err
    both = Command([*call, "-o", tmp_path / "two"], 2, ("llava_rad.cli", "encoder.probing.segmentation.train"))
    out, err = (text.decode() for text in both.communicate(240))
    assert both.returncode == 0, err
    assert err.count("memory of a step") == 1 and err.count("results: ") == 1 and out.count("trainable parameters") == 1
    results = [json.loads((tmp_path / name / "encoders" / "first-linear.json").read_text()) for name in ("one", "two")]
    for key in ("structures", "groups", "few_shot", "sizes", "epoch"):
        assert flat(results[1][key]) == pytest.approx(flat(results[0][key]), abs=2e-3), key


def flat(value: object) -> list[float]:
    if isinstance(value, dict | list):
        return [one for part in (value.values() if isinstance(value, dict) else value) for one in flat(part)]
    return [float(value)] if isinstance(value, int | float) else []
