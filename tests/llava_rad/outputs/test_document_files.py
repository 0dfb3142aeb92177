"""``generate -f sr`` and ``-f fhir``: a folder that is continued, but not with documents of other settings."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest

from tests.llava_rad import small_files
from tests.llava_rad.conftest import Run

pytestmark = pytest.mark.acceptance(row=23)


def of_a_study(path: Path) -> Path:
    """A chest radiograph that an archive could hold."""
    return small_files.dicom(path, StudyInstanceUID="1.2.3.1", SeriesInstanceUID="1.2.3.2")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_every_image_has_its_documents_and_the_same_command_goes_on(
    run: Run, tiny: Path, chest: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "documents"
    command = ("generate", *chest[:3], "--model", tiny, "-f", "sr", "-o", folder)
    assert run(*command).code == 0
    made = names(folder)
    assert len(made) == 6 and sum(name.endswith(".report.dcm") for name in made) == 3
    report = next(folder.glob("*.report.dcm"))
    assert pydicom.dcmread(report).PatientID == "" and report.stat().st_size > 1000
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    report.unlink()
    again = run(*command)
    assert again.code == 0 and "2 were there already" in again.err
    assert names(folder) == made
    others = {name: content for name, content in kept.items() if not name.startswith(report.name.split(".")[0])}
    assert len(others) == 4 and others.items() <= {path.name: path.read_bytes() for path in folder.iterdir()}.items()


def test_documents_of_other_settings_are_not_taken_for_done(run: Run, tiny: Path, tmp_path: Path) -> None:
    folder, image = tmp_path / "documents", of_a_study(tmp_path / "a.dcm")
    for options in ((), ("--identifiers",), ("--max-new-tokens", "3")):
        assert run("generate", image, "--model", tiny, "-f", "fhir", "-o", folder, *options).code == 0
    bundles = [json.loads(path.read_text()) for path in folder.iterdir()]
    assert len(bundles) == 3
    assert sum("subject" in bundle["entry"][0]["resource"] for bundle in bundles) == 1


@pytest.mark.slow
def test_a_file_without_identifiers_is_named_and_the_others_are_written(run: Run, tiny: Path, tmp_path: Path) -> None:
    folder, picture = tmp_path / "documents", small_files.picture(tmp_path / "a.png")
    command = ("--model", tiny, "-f", "fhir", "--identifiers", "-o", folder)
    done = run("generate", picture, of_a_study(tmp_path / "b.dcm"), *command)
    assert done.code == 3 and "input 1 of 2" in done.err and "no DICOM header" in done.err
    assert len(names(folder)) == 1
    alone = run("generate", picture, *command)
    assert alone.code == 4 and "no DICOM header" in alone.err


def test_odd_identifiers_end_no_batch(run: Run, tiny: Path, tmp_path: Path) -> None:
    images, folder = tmp_path / "images", tmp_path / "documents"
    images.mkdir()
    of_a_study(images / "good.dcm")
    for number, values in enumerate(
        ({"PatientBirthDate": "00000000"}, {"PatientSex": "male"}, {"StudyDate": "2020-01-02"}, {"PatientID": "P1\\P2"})
    ):
        with pydicom.config.disable_value_validation():
            small_files.dicom(
                images / f"{number}.dcm",
                seed=number + 1,
                StudyInstanceUID="1.2.3.1",
                SeriesInstanceUID="1.2.3.2",
                **values,
            )
    done = run("generate", images, "--model", tiny, "-f", "sr", "--identifiers", "-o", folder)
    assert done.code == 3 and len(names(folder)) == 2 * 4
    assert done.err.count("were left out: ") == 3 and done.err.count("several patient IDs") == 1
    assert not any(value in done.err for value in ("00000000", "male", "2020-01-02", "P1"))
    reports = [pydicom.dcmread(path) for path in folder.glob("*.report.dcm")]
    assert {(one.PatientID, one.PatientBirthDate, one.PatientSex, one.StudyDate) for one in reports} == {
        ("4711", "", "", "")
    }


def test_options_that_do_not_fit_are_wrong_usage(run: Run, chest: list[Path], tmp_path: Path) -> None:
    assert run("generate", chest[0], "-f", "sr").code == 2
    assert run("generate", chest[0], "--identifiers").code == 2
    (tmp_path / "file").write_text("mine")
    assert run("generate", chest[0], "-f", "sr", "-o", tmp_path / "file").code == 2
    assert (tmp_path / "file").read_text() == "mine"
