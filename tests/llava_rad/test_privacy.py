"""Nothing of a header and no file name leaves: every command is run on a file full of canaries (table row 18)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.llava_rad import small_files
from tests.llava_rad.conftest import Ran, finished, in_one_process, spawn

pytestmark = pytest.mark.acceptance(row=18)

CANARY = "QCANARYQ"
# 40 text fields of every kind: identifiers, free text, and the technical ones that the reader looks at.
TEXT_FIELDS = """
    PatientName PatientID PatientAddress PatientBirthName PatientComments OtherPatientNames PatientTelephoneNumbers
    PatientMotherBirthName EthnicGroup Occupation AdditionalPatientHistory PatientReligiousPreference AccessionNumber
    StudyID StudyDescription SeriesDescription ReferringPhysicianName PerformingPhysicianName OperatorsName
    PhysiciansOfRecord InstitutionName InstitutionAddress InstitutionalDepartmentName StationName Manufacturer
    ManufacturerModelName DeviceSerialNumber SoftwareVersions ProtocolName ImageComments RequestingPhysician
    RequestedProcedureDescription AdmissionID CurrentPatientLocation DerivationDescription ImageLaterality
    AcquisitionDeviceProcessingDescription WindowCenterWidthExplanation MedicalAlerts Allergies
"""
# One at a time: a value that the reader must judge, and may refuse.
JUDGED_FIELDS = """
    Modality BodyPartExamined ViewPosition PatientOrientation PresentationIntentType PhotometricInterpretation
    BurnedInAnnotation PresentationLUTShape VOILUTFunction SpecificCharacterSet LossyImageCompression SOPClassUID
    WindowCenter WindowWidth RescaleSlope RescaleIntercept NumberOfFrames
"""
# Stands for the canary in numbers, which pydicom does not let us write otherwise.
NUMBER = "87654321"


def canary_file(path: Path, **attributes: object) -> Path:
    """A chest radiograph with a canary in every text field, in a private tag and in its name."""
    import pydicom

    before = pydicom.config.settings.writing_validation_mode
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        values: dict[str, object] = {name: f"{CANARY}{n}" for n, name in enumerate(TEXT_FIELDS.split())}
        small_files.dicom(path, **{**values, **attributes})
        data = pydicom.dcmread(path)
        data.add_new(0x00090010, "LO", CANARY)
        data.add_new(0x00091001, "LO", CANARY)
        data.save_as(path)
    finally:
        pydicom.config.settings.writing_validation_mode = before
    path.write_bytes(path.read_bytes().replace(NUMBER.encode(), CANARY.encode()))
    assert path.read_bytes().count(CANARY.encode()) >= 42
    return path


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files with canaries: a good one, refused ones, damaged ones."""
    import pydicom

    folder = tmp_path_factory.mktemp("inputs")
    good = canary_file(folder / f"{CANARY}^JANE.dcm").read_bytes()
    canary_file(folder / f"{CANARY}-lateral.dcm", ViewPosition="LL")
    canary_file(folder / f"{CANARY}-hand.dcm", BodyPartExamined="HAND")
    for name in JUDGED_FIELDS.split():
        number = pydicom.datadict.dictionary_VR(name) in {"DS", "IS"}
        canary_file(folder / f"{CANARY}-{name}.dcm", **{name: NUMBER if number else CANARY})
    (folder / f"{CANARY}-truncated.dcm").write_bytes(good[: len(good) // 2])
    (folder / f"{CANARY}-header.dcm").write_bytes(good[:700])
    (folder / f"{CANARY}-empty.dcm").write_bytes(b"")
    (folder / f"{CANARY}-text.dcm").write_text(CANARY * 99)
    (folder / f"{CANARY}-text.png").write_text(CANARY * 99)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Folders in which a process could leave something: home, cache, temporary files, working folder."""
    for name in ("home", "cache", "tmp", "work"):
        (tmp_path / name).mkdir()
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    folders = {"HOME": "home", "HF_HOME": "cache", "XDG_CACHE_HOME": "cache", "TMPDIR": "tmp"}
    return {variable: str(home / folder) for variable, folder in folders.items()}


def run_at(home: Path, *arguments: str | Path) -> Ran:
    return finished(spawn(*arguments, env=environment(home), cwd=home / "work"))


def leaks(done: Ran, home: Path) -> list[str]:
    """Find the canary in the output, and in every file and file name below ``home``."""
    found = [stream for stream in ("out", "err") if CANARY.lower() in getattr(done, stream).lower()]
    for path in home.rglob("*"):
        if CANARY in path.name or (path.is_file() and CANARY.encode() in path.read_bytes()):
            found.append(str(path.relative_to(home)))
    return found


COMMANDS = [
    (["generate", "ONE", "--model", "MODEL"], 0),
    (["generate", "ONE", "--model", "MODEL", "--format", "json"], 0),
    (["generate", "ONE", "--model", "MODEL", "--stream"], 0),
    (["generate", "ALL", "--model", "MODEL", "--format", "jsonl", "--output", "o.jsonl"], 3),
    (["generate", "ALL", "--model", "MODEL", "--force", "--format", "json", "--output", "o.json"], 3),
    (["generate", "ALL", "--model", "no/model"], 5),
    (["generate", "ONE", "--model", "MODEL", "--output", "no/folder/x"], 2),
    (["inspect", "ONE"], 0),
    (["inspect", "ONE", "--format", "json", "--save-image", "a.png"], 0),
    (["inspect", "LATERAL"], 4),
    (["inspect", "BROKEN"], 4),
    (["assemble", "--encoder", "ALL", "--language-model", "ALL", "out", "--offline"], 5),
]


@pytest.mark.slow
def test_no_canary_anywhere(canaries: Path, tiny: Path, home: Path) -> None:
    stand_ins = {
        "ONE": canaries / f"{CANARY}^JANE.dcm",
        "LATERAL": canaries / f"{CANARY}-lateral.dcm",
        "BROKEN": canaries / f"{CANARY}-truncated.dcm",
        "ALL": canaries,
        "MODEL": tiny,
    }
    commands = [[str(stand_ins.get(word, word)) for word in arguments] for arguments, _ in COMMANDS]
    codes, done = in_one_process(commands, home / "codes.json", env=environment(home), cwd=home / "work")
    assert leaks(done, home) == []
    assert codes == [code for _, code in COMMANDS], done.err
    assert "unexpected" not in done.err


def test_doctor_shows_no_token(home: Path) -> None:
    done = finished(spawn("doctor", env={"HF_TOKEN": f"hf_{CANARY}", "HF_HOME": str(home / "cache")}))
    assert leaks(done, home) == []
    assert "a token is set" in done.out


def test_no_temporary_file_of_any_kind_stays(canaries: Path, tiny: Path, home: Path) -> None:
    run_at(home, "generate", canaries, "--model", tiny, "--format", "jsonl", "--output", "o.jsonl")
    assert [path.name for path in (home / "tmp").rglob("*")] == []
    assert [path.name for path in (home / "work").iterdir()] == ["o.jsonl"]


def test_the_search_itself_finds_a_path_that_was_asked_for(canaries: Path, tiny: Path, home: Path) -> None:
    one = canaries / f"{CANARY}^JANE.dcm"
    done = run_at(home, "generate", one, "--model", tiny, "--show-paths", "-f", "jsonl", "-o", "o.jsonl")
    assert leaks(done, home) == ["work/o.jsonl"]
