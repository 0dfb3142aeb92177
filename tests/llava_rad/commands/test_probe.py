"""``llava-rad probe`` on small drawn images: tables, resume, several encoders, refusals."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.datasets.manifest import read_manifest, write_manifest
from tests.llava_rad import small_probes
from tests.llava_rad.conftest import Run
from tests.llava_rad.small_probes import IMAGES
from tests.shared_readers import _idle_readers, shared_readers

__all__ = ["_idle_readers", "shared_readers"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright images have the label A and are of women; B is noise, C is always absent."""
    return small_probes.manifest(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two small encoders with random weights in RAD-DINO's form."""
    return small_probes.encoders(tmp_path_factory.mktemp("encoders"))


def linear(manifest: Path, *encoders: Path | str) -> tuple[str | Path, ...]:
    named = [part for encoder in encoders for part in ("--encoder", encoder)]
    cache = manifest.parent / "vectors"  # shared: each image is encoded once for all tests
    known = ("--recipe", "rad-dino-28", "--cache", cache, "--device", "cpu")
    return ("probe", "linear", "--data", manifest, *named, *known, "-o", "r")


@pytest.mark.parametrize("protocol", ["logistic", "cached", "paper"])
def test_linear(protocol: str, manifest: Path, encoders: list[Path], run: Run, tmp_path: Path) -> None:
    epochs = {"logistic": "1", "cached": "300", "paper": "12"}[protocol]
    quick = ("--epochs", epochs, "--learning-rate", "0.1", "--seeds", "2")
    ran = run(*linear(manifest, encoders[0]), "--protocol", protocol, *quick)
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "r" / "encoders" / "first.json").read_text())
    assert min(found["auroc"]["A"]) > {"logistic": 0.9, "cached": 0.7, "paper": 0.65}[protocol]
    assert len(found["auroc"]["A"]) == (1 if protocol == "logistic" else 2)
    assert (found["positives"]["A"], found["judged"]) == (8, 16)
    assert found["trained"] == ([32] if protocol == "logistic" else [25, 25]), "a fifth of the subjects is left out"
    assert "Left out" in ran.out and "C" in ran.out[ran.out.index("Left out") :]
    names = {path.relative_to(tmp_path / "r").as_posix() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    assert names >= {"run.json", "table.md", "table.tex", "figure.svg", "environment.json", "encoders/first.json"}
    assert names >= {"predictions/first.csv", "heads/first.safetensors", "comparison.json"}


def test_doubtful_images_are_counted_by_reason(manifest: Path, encoders: list[Path], run: Run, tmp_path: Path) -> None:
    """Also where their vectors are known; the note names no image, the result only rows."""
    rows = read_manifest(manifest)
    for number, share in ((2, 1.0), (40, 0.4), (41, 0.4)):  # nothing but black, and two fifths of it
        pixels = np.array(Image.open(rows[number].path))
        pixels[int(len(pixels) * (1 - share)) :] = 0
        rows[number] = replace(rows[number], path=tmp_path / f"JANE-{number}.png")
        Image.fromarray(pixels).save(rows[number].path)
    write_manifest(rows, tmp_path / "m.csv")
    text = (
        "robably damaged or incomplete, but included: 3 images (a large area has no variation: 2; the picture is "
        "nearly constant: it shows nothing: 1)."
    )
    known = ("--recipe", "rad-dino-28", "--cache", "v", "--device", "cpu", "--protocol", "logistic")
    for output in "rs":
        ran = run("probe", "linear", "--data", "m.csv", "--encoder", encoders[0], *known, "-o", output)
        assert ran.code == 0 and f"warning: p{text}" in ran.err and "JANE" not in ran.err + ran.out
        assert f"P{text}" in (tmp_path / output / "table.md").read_text()
        found = json.loads((tmp_path / output / "encoders" / "first.json").read_text())["doubtful"]
        assert {one["row"] for one in found} == {3, 41, 42} and "JANE" not in str(found)


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


def test_other_settings_are_not_mixed_and_known_data_sets_show_the_papers_column(
    manifest: Path, encoders: list[Path], run: Run
) -> None:
    call = (*linear(manifest, encoders[0]), "--protocol", "logistic", "--labels")
    known = run(*call, "A")
    assert "paper: RAD-DINO AUPRC" in known.out and "52.8" not in known.out, "the paper's is of other labels"
    refused = run(*call, "B")
    assert refused.code == 2 and "other data or settings" in refused.err
    unknown = run(*call, "B", "--dataset", "x", "--overwrite")
    assert unknown.code == 0 and "paper" not in unknown.out


def test_demographics(manifest: Path, encoders: list[Path], run: Run, tmp_path: Path) -> None:
    call = ("probe", "demographics", "--data", manifest, "--encoder", encoders[0], "--recipe", "rad-dino-28")
    ran = run(*call, "-o", "d", "--all-images", "--variables", "sex,age", "--device", "cpu")
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "d" / "encoders" / "first.json").read_text())["variables"]
    assert np.mean(found["sex"]["accuracy"]) > 0.75 and found["sex"]["classes"] == {"F": 24, "M": 24}
    assert found["age"]["classes"] == {"20-40": 20, "40-60": 20, "60-80": 8}
    assert "99.6 (0.1)" in ran.out and "75.1" not in ran.out
    assert "Images: 48 images of 48 patients (train 32 of 32, test 16 of 16); 48 images" in ran.out
    healthy = run(*call, "-o", "h", "--variables", "sex")
    assert healthy.code == 1 and "classes are too few" in healthy.err, "all men here have no finding, and no woman"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("linear", "--protocol", "ridge"), 2),
        (("linear", "--labels", "D"), 1),
        (("linear", "--encoder", "no/such"), 5),
        (("demographics", "--variables", "height"), 2),
        (("demographics", "--seed", "-1"), 2),
        (("demographics", "--seed", "99999999999999"), 2),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], code: int, manifest: Path, encoders: list[Path], run: Run) -> None:
    named = () if "--encoder" in arguments else ("--encoder", encoders[0])
    ran = run("probe", *arguments, "--data", manifest, *named, "-o", "r", "--offline")
    assert ran.code == code, ran.err


@pytest.mark.parametrize("probe", ["linear", "demographics"])
def test_an_image_in_two_manifests_is_refused(
    probe: str, manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    rows = [row for row in read_manifest(manifest) if row.split == "train"]
    write_manifest([replace(row, dataset="other", split="test") for row in rows[3:]], tmp_path / "other.csv")
    for second in (manifest, tmp_path / "other.csv"):
        ran = run("probe", probe, "--data", manifest, "--data", second, "--encoder", encoders[0], "-o", "r")
        number = 1 if second == manifest else 4
        assert ran.code == 1, ran.err
        assert f"row {number} of manifest 1 and row 1 of manifest 2 are the same image" in ran.err.replace("\n", " ")


def test_a_label_that_is_named_twice_is_one(manifest: Path, run: Run) -> None:
    ran = run("probe", "linear", "--data", manifest, "--encoder", "none", "-o", "r", "--labels", "A, B,A", "--validate")
    assert "labels      A, B\n" in ran.out + ran.err


def test_names_of_encoders_that_would_share_files_are_refused(manifest: Path, encoders: list[Path], run: Run) -> None:
    """The second one's predictions and heads would replace the first one's."""
    ran = run(*linear(manifest, f"x y={encoders[0]}", f"x-y={encoders[1]}"), "--protocol", "logistic", "--labels", "A")
    assert ran.code == 1 and "two encoders are called 'x-y'" in ran.err, ran.err


def copied(manifest: Path, folder: Path) -> Path:
    """A manifest whose last test image is a copy of the first training image."""
    rows = read_manifest(manifest)
    shutil.copy(rows[0].path, folder / "copy.png")
    write_manifest([*rows[:-1], replace(rows[-1], path=folder / "copy.png")], folder / "copied.csv")
    return folder / "copied.csv"


def test_a_copy_of_a_training_image_is_not_judged(
    manifest: Path, masked: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    for probe, file, number in (("linear", manifest, IMAGES), ("segment", masked, 22)):
        table = copied(file, tmp_path)
        ran = run("probe", probe, "--data", table, "--encoder", encoders[0], "--recipe", "rad-dino-84", "-o", probe)
        assert ran.code == 1 and f"rows 1 (train) and {number} (" in ran.err.replace("\n", " "), ran.err


def damaged(manifest: Path, folder: Path, *numbers: int) -> Path:
    """A copy of a manifest's folder in which images of these numbers are cut short."""
    shutil.copytree(manifest.parent, folder, ignore=shutil.ignore_patterns("vectors"))
    for number in numbers:
        file = folder / f"{number}.png"
        file.write_bytes(file.read_bytes()[:200])
    return folder / manifest.name


@pytest.mark.parametrize("protocol", ["logistic", "cached", "paper"])
def test_a_corrupt_image_is_left_out_of_a_linear_probe_and_counted(
    protocol: str, manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    """The result is that of the manifest without the row."""
    table = damaged(manifest, tmp_path / "bad", 5)
    lines = table.read_text().splitlines(keepends=True)
    (table.parent / "without.csv").write_text("".join(line for line in lines if not line.startswith("5.png,")))
    quick = ("--protocol", protocol, "--epochs", "2", "--seeds", "1", "--labels", "A")
    ran = run(*linear(table, encoders[0]), *quick)
    assert ran.code == 0, ran.err
    assert "left out, since they cannot be read: 1 images (row 6: " in ran.err and "cannot be read: 1 images" in ran.out
    found = json.loads((tmp_path / "r" / "encoders" / "first.json").read_text())
    assert found["trained"] == [31 if protocol == "logistic" else 24]
    assert (found["judged"], len(found["unreadable"])) == (16, 1)
    expected = run(*linear(table.parent / "without.csv", encoders[0])[:-1], "w", *quick)
    assert expected.code == 0 and "cannot be read" not in expected.err
    assert found["auroc"] == json.loads((tmp_path / "w" / "encoders" / "first.json").read_text())["auroc"]
    again = run(*linear(table, encoders[0]), *quick)
    assert again.out == ran.out and "cannot be read: 1 images" in again.err


def test_too_many_corrupt_images_end_a_probe_and_a_missing_file_is_one(
    manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    table = damaged(manifest, tmp_path / "bad", 5)
    (table.parent / "40.png").unlink()
    call = (*linear(table, encoders[0]), "--protocol", "logistic")
    ended = run(*call)
    assert ended.code == 1 and "2 of 48 images cannot be read, 1 may be" in ended.err
    assert "--max-unreadable" in ended.err and ".png" not in ended.err
    allowed = run(*call, "--max-unreadable", "0.05")
    assert allowed.code == 0 and "cannot be read: 2 images" in allowed.err
    demographics = run(
        "probe", "demographics", "--data", table, "--encoder", encoders[0], "--recipe", "rad-dino-28", "-o", "d",
        "--all-images", "--variables", "sex", "--device", "cpu", "--max-unreadable", "0.05",
    )  # fmt: skip
    assert demographics.code == 0, demographics.err
    found = json.loads((tmp_path / "d" / "encoders" / "first.json").read_text())["variables"]
    assert found["sex"]["images"] == 46


@pytest.mark.slow
def test_a_failed_start_leaves_nothing_that_blocks_the_right_options(
    manifest: Path, masked: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    call = ("probe", "linear", "--data", manifest, "--recipe", "rad-dino-28", "--device", "cpu", "-o", "r")
    assert run(*call, "--encoder", "no/such", "--labels", "B", "--offline").code == 5
    assert run(*call, "--encoder", encoders[0], "--labels", "B", "--device", "none").code == 1
    assert not (tmp_path / "r").exists()
    right = run(*call, "--encoder", encoders[0], "--labels", "A", "--protocol", "logistic")
    assert right.code == 0, right.err

    call = ("probe", "segment", "--data", masked, "--encoder", encoders[0], "--recipe", "rad-dino-84", "-o", "s")
    quick = ("--no-augment", "--epochs", "1", "--device", "cpu", "--overlays", "0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("encoder.probing.segmentation.train.loss_of", lambda sums, weight: sums.sum() * float("nan"))
        wrong = run(*call, *quick, "--learning-rate", "0.1")
    assert wrong.code == 1 and "the loss is not finite in epoch 1" in wrong.err
    assert run(*call, *quick).code == 0


def test_validate_decodes_a_sample_and_writes_nothing(
    manifest: Path, masked: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    table = damaged(manifest, tmp_path / "bad", 5, 7)
    for kind, more in (("linear", ()), ("demographics", ("--all-images",))):
        call = ("probe", kind, "--data", table, "--encoder", encoders[0], "--recipe", "rad-dino-28", "-o", "v", *more)
        ran = run(*call, "--validate")
        assert ran.code == 2 and "2 of 48 image files that were decoded cannot be read: truncated 2" in ran.err, ran.err
        told = run(*call, "--validate", "--max-unreadable", "0.05")
        assert told.code == 0 and "read        46 of 48" in told.out and "warning: 2 of 48" in told.out
    whole = run("probe", "segment", "--data", masked, "--encoder", encoders[0], "-o", "v", "--validate")
    assert whole.code == 0 and "read        22 of 22" in whole.out and "width 24" in whole.out
    assert not (tmp_path / "v").exists()


def test_attributes_edited_in_a_manifest_are_noticed(
    manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    table = damaged(manifest, tmp_path / "copy")
    call = ("probe", "demographics", "--data", table, "--encoder", encoders[0], "--recipe", "rad-dino-28", "-o", "d")
    quick = ("--all-images", "--variables", "sex", "--device", "cpu")
    assert run(*call, *quick).code == 0
    text = table.read_text()
    table.write_text(text.replace(",F\n", ",X\n").replace(",M\n", ",F\n").replace(",X\n", ",M\n"))
    assert table.read_text() != text
    edited = run(*call, *quick)
    assert edited.code == 2 and "other data or settings" in edited.err


def redraw(file: Path) -> None:
    """Write other pixels into a file, without a change of its time."""
    before = file.stat()
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


LOGISTIC = ("--protocol", "logistic", "--labels", "A,B")


@pytest.mark.slow
def test_results_on_other_image_files_are_refused_and_computed_anew_on_request(
    manifest: Path, encoders: list[Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from encoder.probing import vectors

    encoded: list[int] = []
    encode = vectors.encode
    monkeypatch.setattr(vectors, "encode", lambda *a: encoded.append(len(a[1])) or encode(*a))  # type: ignore[func-returns-value]
    table = damaged(manifest, tmp_path / "copy")
    call = (*linear(table, encoders[0])[:-1], "r", *LOGISTIC)
    assert run(*call).code == 0
    file = tmp_path / "r" / "encoders" / "first.json"
    first, written = json.loads(file.read_text()), file.stat().st_mtime_ns
    (table.parent / "0.png").touch()
    shutil.move(table.parent, tmp_path / "moved")
    table = tmp_path / "moved" / table.name
    call = (*linear(table, encoders[0])[:-1], "r", *LOGISTIC)
    assert run(*call).code == 0 and file.stat().st_mtime_ns == written, "the same bytes elsewhere"
    for number in range(32, 40):
        redraw(table.parent / f"{number}.png")
    encoded.clear()
    for more in ((), ("--encoder", f"other={encoders[1]}")):
        refused = run(*call, *more)
        assert refused.code == 2 and "image files that have changed since" in refused.err and refused.out == ""
    assert json.loads(file.read_text()) == first and not encoded
    assert run(*call, "--overwrite").code == 0 and sum(encoded) == 8, "the others' vectors are kept"
    fresh = run(*linear(table, encoders[0])[:-1], "fresh", *LOGISTIC, "--cache", tmp_path / "new")
    assert fresh.code == 0
    found = json.loads(file.read_text())
    assert found == json.loads((tmp_path / "fresh" / "encoders" / "first.json").read_text())
    assert found["auroc"] != first["auroc"]


@pytest.mark.parametrize("change", ["weights", "heads"])
def test_an_encoder_that_changed_in_its_folder_is_probed_anew(
    change: str, manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    shutil.copytree(encoders[0], tmp_path / "first")
    call = (*linear(manifest, tmp_path / "first")[:-1], "r", *LOGISTIC)
    assert run(*call).code == 0
    file = tmp_path / "r" / "encoders" / "first.json"
    before = json.loads(file.read_text())
    if change == "weights":
        shutil.copy(encoders[1] / "model.safetensors", tmp_path / "first")
    else:
        config = json.loads((tmp_path / "first" / "config.json").read_text())
        (tmp_path / "first" / "config.json").write_text(json.dumps({**config, "num_attention_heads": 4}))
    assert run(*call).code == 0
    found = json.loads(file.read_text())
    assert found["auroc"] != before["auroc"] and found["weights"] != before["weights"]
    assert run(*linear(manifest, tmp_path / "first")[:-1], "fresh", *LOGISTIC, "--cache", tmp_path / "new").code == 0
    assert json.loads((tmp_path / "fresh" / "encoders" / "first.json").read_text()) == found


@pytest.mark.parametrize(
    ("old", "new"), [(",1,", ",0,"), (",train,", ",test,"), ("p9,", "p99,")], ids=["label", "split", "subject"]
)
def test_labels_splits_and_subjects_edited_in_a_manifest_are_noticed(
    old: str, new: str, manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    table = damaged(manifest, tmp_path / "copy")
    call = (*linear(table, encoders[0])[:-1], "r", *LOGISTIC)
    assert run(*call).code == 0
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))
    edited = run(*call)
    assert edited.code == 2 and "other data or settings" in edited.err and edited.out == ""


def test_results_that_an_earlier_version_kept_without_contents_are_computed_anew(
    manifest: Path, encoders: list[Path], run: Run, tmp_path: Path
) -> None:
    assert run(*linear(manifest, encoders[0]), *LOGISTIC).code == 0
    file = tmp_path / "r" / "encoders" / "first.json"
    right = json.loads(file.read_text())
    for name in (tmp_path / "r" / "run.json", file):
        content = json.loads(name.read_text())
        del content["contents"]
        name.write_text(json.dumps(content | ({"auroc": {"A": [0.123], "B": [0.1]}} if name == file else {})))
    assert run(*linear(manifest, encoders[0]), *LOGISTIC).code == 0
    assert json.loads(file.read_text()) == right


def test_maps(chest: list[Path], encoders: list[Path], run: Run, tmp_path: Path) -> None:
    how = ("--encoder", encoders[0], "--recipe", "rad-dino-84")
    assert run("maps", "attention", chest[0], *how, "-o", "a.png").code == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (3 * 84 + 2 * 4, 84), "the image and two heads"
    same = run("maps", "match", chest[0], chest[0], "--at", "0.3,0.6", *how, "-o", "m.png")
    assert same.out == "0.250,0.583 1.0000\n", "column 1 and row 3 of 6: the patch itself"
    assert run("maps", "match", chest[0], chest[1], "--at", "1.2,0", *how, "-o", "n.png").code == 2
    assert run("maps", "attention", chest[0], *how, "-o", "a.png").code == 2, "not replaced"


def test_maps_refuse_a_lateral_view(lateral: Path, encoders: list[Path], run: Run) -> None:
    assert run("maps", "attention", lateral, "--encoder", encoders[0], "-o", "a.png").code == 4
