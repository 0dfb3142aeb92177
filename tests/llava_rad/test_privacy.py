"""Nothing of a header and no file name leaves: every command is run on a file full of canaries (table row 18)."""

from __future__ import annotations

import csv
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


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


@pytest.fixture
def tables(home: Path) -> Path:
    """A folder of images and tables with a canary in every id, patient, study and path, and of tables with faults."""
    folder = home / "work" / "in"
    (folder / f"{CANARY} JANE").mkdir(parents=True)
    rows = []
    for number in range(24):
        name = f"{CANARY} JANE/{CANARY}-{number}.png"
        small_files.picture(folder / name, seed=number)
        small_files.picture(folder / name.replace(".png", "-mask.png"), seed=number)
        rows.append(
            {
                "id": f"{CANARY} {number}",
                "image": name,
                "subject": f"{CANARY}^JANE {number}",
                "study": f"{CANARY}.{number}",
                "view": "PA",
                "split": "train" if number < 16 else "test",
                "sex": "MF"[number % 2],
                "age": str(40 + number),
                "findings": f"{'No effusion' if number % 3 else 'Effusion'} {number}.",
                "label:Effusion": str(number % 2),
            }
        )
    first = rows[0]
    written = {
        "images": [{name: row[name] for name in row if name != "findings"} for row in rows],
        "pairs": rows,
        "predictions": [{"id": row["id"], "prediction": row["findings"]} for row in rows],
        "references": [{name: row[name] for name in row if name != "image"} for row in rows],
        "strange": [{"id": row["id"] + "x", "prediction": row["findings"]} for row in rows],
        "twice": [{**row, "id": first["id"], "image": first["image"]} for row in rows],
        "lost": [{**row, "image": f"{CANARY}.png"} for row in rows],
        "odd": [{**row, **dict.fromkeys(("sex", "age", "view", "label:Effusion"), CANARY)} for row in rows],
        "split": [{**row, "split": CANARY} for row in rows],
        "mixed": [{**row, "subject": first["subject"]} for row in rows],
        "short": [{**row, "findings": ""} for row in rows],
    }
    for name, content in written.items():
        write_table(folder / f"{name}.csv", content)
    lines = (folder / "pairs.csv").read_text(encoding="utf-8").splitlines()
    (folder / "headless.csv").write_text("\n".join(lines[1:]), encoding="utf-8")
    (folder / "ragged.csv").write_text("\n".join([*lines, CANARY]), encoding="utf-8")
    (folder / "broken.jsonl").write_text(f'{{"id": "{CANARY}", {CANARY}\n', encoding="utf-8")
    return folder


@pytest.mark.slow
def test_no_cell_of_a_table_is_shown_or_kept_where_it_was_not_asked_for(tables: Path, home: Path) -> None:
    """Tables of images and pairs, and values of each report, hold the ids that they are for; they go to ``in``."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(home / "encoder")
    encoder = ["--encoder", str(home / "encoder"), "--recipe", "rad-dino-28", "--device", "cpu"]
    quick = ["--protocol", "logistic", "--epochs", "1", "--seeds", "2", "--cache", "vectors"]
    faulty = ("strange", "twice", "lost", "odd", "split", "mixed", "short", "headless", "ragged")
    scored = ["in/references.csv", "--metrics", "rouge_l,rules", "--no-cache", "--bootstrap", "10"]
    commands = [
        ["manifest", "table", "in/images.csv", "-o", "in/manifest.csv"],
        ["reports", "table", "in/pairs.csv", "-o", "in/pairs.jsonl", "-f", "json"],
        *(
            ["evaluate", "in/predictions.csv", *scored, "--strata", "sex,age", "-f", form, "--per-sample",
             f"in/{form}.csv", "--figure", f"{form}.svg"]
            for form in ("text", "json", "markdown", "latex")
        ),
        ["embed", "in/manifest.csv", *encoder, "-o", "features.npz"],
        ["embed", "in", "-r", *encoder, "-o", "features.parquet"],
        ["probe", "linear", "--data", "in/manifest.csv", *encoder, *quick, "-o", "linear"],
        ["probe", "demographics", "--data", "in/manifest.csv", *encoder, "-o", "people", "--all-images"],
        ["benchmark", "--dataset", "csv", "--data", "in/references.csv", "--predictions", "in/predictions.csv",
         "--metrics", "rouge_l", "--no-cache", "--bootstrap", "10", "-o", "in/benchmark"],
    ]  # fmt: skip
    refused = [
        *(["evaluate", "in/predictions.csv", *scored, "--strata", column] for column in ("subject", "study", "id")),
        ["evaluate", "in/predictions.csv", *scored, "--prediction-annotations", "in/strange.csv"],
        ["benchmark", "--dataset", "csv", "--data", "in/pairs.csv", "--predictions", "in/strange.csv", "-o", "in/b"],
        ["manifest", "table", "in/broken.jsonl", "-o", "in/x.csv"],
        ["reports", "table", "in/broken.jsonl", "-o", "in/x.jsonl"],
        ["evaluate", "in/broken.jsonl", *scored],
    ]  # fmt: skip
    told = [["manifest", "table", f"in/{name}.csv", "-o", f"in/{name}-m.csv"] for name in faulty]
    told += [["reports", "table", f"in/{name}.csv", "-o", f"in/{name}-p.csv"] for name in faulty]
    told += [["evaluate", f"in/{name}.csv", *scored, "--prediction-field", "findings"] for name in faulty]
    told += [["evaluate", "in/predictions.csv", f"in/{name}.csv", *scored[1:]] for name in faulty]
    every = [*commands, *refused, *told]
    codes, done = in_one_process(every, home / "codes.json", env=environment(home), cwd=home / "work")
    assert [leak for leak in leaks(done, home) if not leak.startswith("work/in/")] == []
    assert codes[: len(commands)] == [0] * len(commands), done.err
    assert all(codes[len(commands) : len(commands) + len(refused)]), "every fault is found"
    assert done.err.count("its first row holds values, not names of columns") >= 3
    assert "unexpected" not in done.err
    assert CANARY in (tables / "text.csv").read_text(encoding="utf-8"), "ids are where they were asked for"
