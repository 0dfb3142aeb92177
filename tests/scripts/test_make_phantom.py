"""Phantom data sets: determinism, refusal, splits, DICOM validity."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.make_phantom import main, make_dataset
from scripts.phantom import phantom_radiograph
from scripts.phantom.files import write_dicom
from scripts.phantom.layouts import LAYOUTS
from tests.scripts.phantom_files import table, truth

ROOT = Path(__file__).resolve().parents[2]


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


# ---- determinism, refusal, splits


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    names = ["mimic-cxr", "vindr-cxr", "rsna-pneumonia", "padchest"]
    for folder, layouts, seed in (("a", names, 3), ("b", names, 3), ("c", names[:1], 4)):
        make_dataset(tmp_path / folder, layouts, studies=2, size=64, seed=seed)
    first, again, other = (digests(tmp_path / folder) for folder in "abc")
    assert first == again
    assert set(first.values()) & set(other.values()) == {first["truth/README.txt"]}


def test_an_image_is_the_same_in_another_process() -> None:
    """Pixels do not depend on Python's hash seed, the clock or images drawn before."""
    code = "from scripts.phantom import phantom_radiograph as p; import hashlib; "
    code += "print(hashlib.sha256(p('x', size=64).pixels.tobytes()).hexdigest())"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    phantom_radiograph("y", size=64)
    assert hashlib.sha256(phantom_radiograph("x", size=64).pixels.tobytes()).hexdigest() == done.stdout.strip()


def test_command_line_refuses_and_forces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    arguments = ["--layout", "candid-ptx", "--n", "1", "--size", "64", str(out)]
    assert main(arguments) == 1
    assert "--force" in capsys.readouterr().err
    assert (out / "mine.txt").read_text() == "keep"
    assert main(["--force", *arguments]) == 0
    assert not (out / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing temporary is left
    with pytest.raises(SystemExit) as stopped:
        main(["--layout", "nonsense", str(tmp_path / "other")])
    assert stopped.value.code == 2


@pytest.mark.slow
def test_splits_share_no_patient(data: Path) -> None:
    for layout in LAYOUTS:
        seen: dict[str, str] = {}
        for record in truth(data, layout):
            assert seen.setdefault(record["patient"]["key"], record["split"]) == record["split"]
    _, split = table(data / "mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz")
    by_subject = {row["subject_id"]: row["split"] for row in split}
    assert all(by_subject[row["subject_id"]] == row["split"] for row in split)
    assert {row["split"] for row in split} == {"train", "validate", "test"}
    keys = [{record["patient"]["key"] for record in truth(data, layout)} for layout in LAYOUTS]
    assert len(set().union(*keys)) == sum(len(k) for k in keys)


# ---- DICOM


def test_every_dicom_is_read_and_fictitious(data: Path) -> None:
    import pydicom
    from pydicom.uid import UID

    files = [*data.rglob("*.dcm"), *data.rglob("*.dicom"), *(data / "candid-ptx/dataset").iterdir()]
    seen = set()
    for path in files:
        ds = pydicom.dcmread(path)
        assert ds.pixel_array.shape == (ds.Rows, ds.Columns)
        assert ds.pixel_array.max() < 2**ds.BitsStored
        assert np.ptp(ds.pixel_array) > 0.5 * 2**ds.BitsStored * 0.8
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            assert UID(ds[keyword].value).is_valid
            assert ds[keyword].value.startswith("2.25.")
        assert "PHANTOM" in str(ds.PatientName) or ds.PatientName == ds.PatientID
        assert ds.Manufacturer == "Synthetic phantom"
        assert ds.Modality in ("CR", "DX")
        seen.add((ds.PhotometricInterpretation, ds.BitsStored, ds.file_meta.TransferSyntaxUID.name))
        if "PatientOrientation" in ds and ds.PatientOrientation:
            assert list(ds.PatientOrientation) == (["P", "F"] if ds.ViewPosition in ("LL", "LATERAL") else ["L", "F"])
    assert {photometric for photometric, _, _ in seen} == {"MONOCHROME1", "MONOCHROME2"}
    assert {bits for _, bits, _ in seen} == {8, 12}
    assert len({syntax for _, _, syntax in seen}) == 3
    uids = [str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files]
    assert len(set(uids)) == len(uids)


def test_monochrome1_is_the_complement(tmp_path: Path) -> None:
    import pydicom
    from pydicom.pixels.processing import apply_voi_lut

    phantom = phantom_radiograph(1, (), 96)
    write_dicom(tmp_path / "2.dcm", phantom, key="a")
    write_dicom(tmp_path / "1.dcm", phantom, key="a", inverted=True)
    plain, inverted = pydicom.dcmread(tmp_path / "2.dcm"), pydicom.dcmread(tmp_path / "1.dcm")
    assert np.array_equal(plain.pixel_array, phantom.pixels)
    assert np.array_equal(4095 - inverted.pixel_array, phantom.pixels)
    shown, complement = (apply_voi_lut(ds.pixel_array, ds) for ds in (plain, inverted))
    assert np.abs(shown - (4095 - complement)).max() < 0.01 * 4095  # the window was mirrored with the values


def test_the_projects_reader_accepts_frontals_and_refuses_laterals(data: Path) -> None:
    from encoder.errors import ReadError
    from encoder.reader.sandbox import Reader

    views = {record["image"]: record["view"] for record in truth(data, "mimic-cxr")}
    with Reader() as reader:
        for name in list(views)[:8]:
            path = data / name.replace("mimic-cxr-jpg", "mimic-cxr").replace(".jpg", ".dcm")
            if views[name] == "LATERAL":
                with pytest.raises(ReadError) as refused:
                    reader.read(path)
                assert refused.value.reason == "lateral"
                continue
            radiograph = reader.read(path)
            assert radiograph.facts.view == views[name]
            assert not radiograph.facts.mirrored
            with Image.open(data / name) as shown:  # brighter = denser whatever the file's polarity
                correlation = np.corrcoef(radiograph.pixels.ravel(), np.asarray(shown).ravel())[0, 1]
            assert correlation > 0.98
        for path in (
            next((data / "vindr-cxr/train").iterdir()),
            next((data / "rsna-pneumonia/stage_2_train_images").iterdir()),
            next((data / "candid-ptx/dataset").iterdir()),
        ):
            assert reader.read(path).pixels.ndim == 2
